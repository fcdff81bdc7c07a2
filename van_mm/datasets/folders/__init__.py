"""Read a folder of one's own data in the usual layouts, for :func:`van_mm.use_data`."""
