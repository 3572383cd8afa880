"""How assets are retried. Crashed runs are the instance's (dagster.yaml); what a body raises is retried here, and only here."""

import sys

import dagster as dg


class _RetryOfErrors(dg.RetryPolicy):
    """A policy for what goes wrong, not for what is stopped.

    Dagster asks a policy for the delay also when a body was interrupted, and would run it again: a run that someone cancels
    would begin anew, and succeed. Raised again here, the interrupt ends the step, and the run is CANCELED; or, when its process
    is to end, failed and started again by the instance.
    """

    def calculate_delay(self, attempt_num: int) -> float:
        interrupt = sys.exception()
        if isinstance(interrupt, dg.DagsterExecutionInterruptedError | KeyboardInterrupt):
            raise interrupt
        return super().calculate_delay(attempt_num)


# PostgreSQL or Redis went away: a few seconds later they are often back.
IO_RETRY = _RetryOfErrors(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
