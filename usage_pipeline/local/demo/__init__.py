"""`usage-pipeline demo`: writers and drains at the same time, then the comparison of both sides."""
