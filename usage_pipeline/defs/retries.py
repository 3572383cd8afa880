"""How assets are retried. Crashed runs are the instance's (dagster.yaml); what a body raises is retried here, and only here."""

import dagster as dg

# PostgreSQL or Redis went away: a few seconds later they are often back.
IO_RETRY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
