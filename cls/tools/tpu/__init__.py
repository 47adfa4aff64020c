"""TPU slices: their hardware limits, and the collectives and costs of compiled programs."""
