"""`usage-pipeline budgets`: set, listed, removed."""
