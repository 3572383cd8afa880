"""Tests of the views and questions of analysts."""
