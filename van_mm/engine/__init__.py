"""Hooks, optimizer wrappers, checkpoint files, and distributed jobs."""
