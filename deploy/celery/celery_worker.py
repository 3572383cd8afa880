"""The application of a Celery worker. It has one task: a run that Dagster has launched, and that has not begun.

Instead of `dagster_celery.app`, one of whose tasks loads whatever code its message names. And instead of `dagster-celery worker
start -y FILE`: that one dies of SIGTERM without waiting for its runs, and writes the broker's password to a file.
"""

import os
from typing import Any

from celery import Task
from celery.utils.log import get_task_logger
from celery_messages import signed_messages
from dagster import DagsterInstance, DagsterRunStatus
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task
from dagster_shared.serdes import unpack_value

_log = get_task_logger(__name__)
# A run that is cancelled before a worker takes it is ended by its task.
_NOT_BEGUN = (DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING)


class LaunchedRun(Task):
    """Refuses what Dagster's own storage does not know as launched: a message that is sent again runs nothing twice."""

    def __call__(self, *, execute_job_args_packed: dict[str, Any]) -> Any:
        run_id = str(unpack_value(execute_job_args_packed).run_id)
        with DagsterInstance.get() as instance:
            run = instance.get_run_by_id(run_id)
        if run is None or run.status not in _NOT_BEGUN:
            status = run.status.value if run else "unknown"
            _log.error("Refused run %r: expected one that is launched and has not begun, came %s", run_id, status)
            return None
        return super().__call__(execute_job_args_packed=execute_job_args_packed)


app = make_app(
    {
        # Without them the worker must not start: its default would be a broker that nobody uses.
        "broker": os.environ["DAGSTER_CELERY_BROKER_URL"],
        "backend": os.environ["DAGSTER_CELERY_BACKEND_URL"],
        "config_source": signed_messages()
        | {
            "task_default_queue": "dagster",
            "broker_connection_retry_on_startup": True,
            # A worker takes a run when it has a process for it. One that it had put aside would wait although others are idle,
            # and come back an hour after the worker was killed, when Dagster has long retried it.
            "worker_disable_prefetch": True,
            "worker_prefetch_multiplier": 1,
            "worker_max_tasks_per_child": 100,
            # Loaded once, before the worker forks: else the first run of each process would take seconds longer.
            "imports": ["usage_pipeline.definitions"],
            # Notes with the result which worker it was.
            "result_extended": True,
            # Processes keep what libraries log; `--loglevel` decides.
            "worker_hijack_root_logger": False,
        },
    }
)
execute_job = create_execute_job_task(app, base=LaunchedRun)
# Celery's own tasks, which call others, and those of its tests.
app.finalize()
for name in set(app.tasks) - {execute_job.name}:
    app.tasks.unregister(name)
