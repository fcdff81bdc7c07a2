"""Checkpoint files and random states of a run."""
