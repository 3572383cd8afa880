"""The only package that imports dagster: thin bodies (window -> domain call -> metadata) around the domain packages."""
