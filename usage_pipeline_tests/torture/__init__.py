"""Torture of the drain: real processes, real servers, faults at random moments, and a count of both sides afterwards.

Run: `make torture`, or `python -m usage_pipeline_tests.torture --help`. No part of the package that is shipped.
"""
