"""`usage-pipeline dead-letters`: looks at refused input, tries it again, discards it, writes it out."""
