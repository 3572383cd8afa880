"""The loader of issues from files. Their statistics and rankings are in `rollups/`."""
