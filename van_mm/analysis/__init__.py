"""Complexity, speed, learning rate schedules and training logs: the computations behind ``tools/analysis``."""
