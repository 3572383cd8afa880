"""Dagster's Celery launcher, with signed messages, and with runs that can be cancelled (seen with dagster-celery 0.29.27)."""

from typing import Any

from celery_messages import signed_messages
from dagster_celery.launcher import CeleryRunLauncher


class SignedCeleryRunLauncher(CeleryRunLauncher):
    """Takes the same configuration, and DAGSTER_CELERY_SIGNING_KEY."""

    def app_args(self) -> dict[str, Any]:
        arguments = super().app_args()
        return {**arguments, "config_source": arguments["config_source"] | signed_messages()}

    @property
    def supports_resume_run(self) -> bool:
        """Workers have no task for it; Dagster retries such a run instead."""
        return False

    def terminate(self, run_id: str) -> bool:
        """Ends a run that was launched; False when it has ended already or is not known.

        That of the parent ends the process and does not note that somebody wanted it: the run then counts as crashed and is
        retried.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)
