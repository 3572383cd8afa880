"""Dagster's Celery launcher, with runs that can be cancelled (seen with dagster-celery 0.29.27).

Its own `terminate` ends the process and does not note that somebody wanted it: the run then counts as crashed and is retried.
"""

from dagster_celery.launcher import CeleryRunLauncher


class CancellableCeleryRunLauncher(CeleryRunLauncher):
    """Takes the same configuration."""

    def terminate(self, run_id: str) -> bool:
        """Ends a run that was launched; False when it has ended already or is not known."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)
