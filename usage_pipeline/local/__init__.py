"""Everything on one machine: `usage-pipeline dev`, the demo and its traffic, embedded servers, child processes."""
