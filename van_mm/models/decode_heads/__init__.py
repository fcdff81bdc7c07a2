"""Decode heads that mmsegmentation lacks."""
