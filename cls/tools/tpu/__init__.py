"""TPU slices: their figures, and what a compiled program sends and computes."""
