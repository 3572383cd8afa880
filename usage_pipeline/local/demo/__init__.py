"""`usage-pipeline demo`: writes and drains at the same time, then compares what was written with what is stored."""
