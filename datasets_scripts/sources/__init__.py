"""One reader for each public layout; each yields :class:`datasets_scripts.rows.Row` objects."""
