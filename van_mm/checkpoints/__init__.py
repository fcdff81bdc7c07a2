"""Checkpoint files: reading them safely, VAN's published weights, and the names of their parameters."""
