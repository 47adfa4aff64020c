"""Evaluators: picklable callables from a trial to its metrics."""
