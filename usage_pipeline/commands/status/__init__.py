"""`usage-pipeline status`: how everything is, on one screen."""
