"""How assets are retried when their body raises. dagster.yaml says how crashed runs are retried."""

import sys

import dagster as dg

from usage_pipeline.storage.postgres import refused_for_good


class _RetryOfErrors(dg.RetryPolicy):
    """Retries a body that failed, but not a body that was interrupted.

    Dagster asks the policy also after an interrupt, and would run the body again: a run that somebody cancels would begin anew,
    and succeed. So the policy raises the interrupt again, which ends the step. The run is then CANCELED; or, if its process
    must end, it fails and the instance starts it again.

    A statement that PostgreSQL refuses for good is not tried again, either: what it says becomes the headline of the failure.
    """

    def calculate_delay(self, attempt_num: int) -> float:
        error = sys.exception()
        if isinstance(error, dg.DagsterExecutionInterruptedError | KeyboardInterrupt):
            raise error
        if error is not None and (said := refused_for_good(error)):
            raise dg.Failure(said, allow_retries=False) from error
        return super().calculate_delay(attempt_num)


# PostgreSQL or Redis went away: a few seconds later they are often back.
IO_RETRY = _RetryOfErrors(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
