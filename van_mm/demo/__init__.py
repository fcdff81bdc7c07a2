"""Small generated data sets, and the changes that make a config run on them (``--demo``)."""
