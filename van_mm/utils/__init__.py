"""Helpers that depend on nothing else in van_mm."""
