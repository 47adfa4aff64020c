"""Coordination of the processes of a run: detection, rendezvous, agreement, preemption.

May import: errors, signals.
"""
