"""Tests, in the same rooms as the package. Unit tests first, then integration on real servers; `end_to_end` through Dagster."""
