"""Tests of the files of `deploy/`, the wheel and the image."""
