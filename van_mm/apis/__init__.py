"""What a user calls from Python; every script in ``tools/`` is a thin layer over it."""
