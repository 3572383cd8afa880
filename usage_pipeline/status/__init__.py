"""How everything is, for `usage-pipeline status`: each part is read alone, in bounded time, and nothing is changed."""
