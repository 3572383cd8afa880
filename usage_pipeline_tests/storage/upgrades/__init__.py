"""The upgrade from version 0.1.0 to now, with rows in every table."""
