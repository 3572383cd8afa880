"""Runs the HTTP service under uvicorn until SIGTERM or SIGINT. It answers the requests that it has begun before it stops."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from usage_pipeline.settings import load_settings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
STOP_SECONDS = 60
START_SECONDS = 60
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def serve(*, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, workers: int = 1) -> None:
    """Serves in this process, or in `workers` child processes that share the port. Raises SettingsError before it starts."""
    load_settings()
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops by handlers of its own, and then raises the signal again for these: a stop is no failure.
        signal.signal(number, lambda *_: None)
    with _shared_metrics(workers):
        uvicorn.run(
            "usage_pipeline.api.app:app_of_environment",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            # After that the connections that are left are cut; what is being stored is finished all the same.
            timeout_graceful_shutdown=STOP_SECONDS,
            # A worker that still imports on a busy machine is not dead: uvicorn's 5 s end it again and again.
            timeout_worker_healthcheck=START_SECONDS,
            access_log=False,
            server_header=False,
            # The launcher's format; uvicorn's own would be a second one.
            log_config=None,
        )


@contextmanager
def _shared_metrics(workers: int) -> Iterator[None]:
    """A new folder in which several workers add up their metrics. Files of an earlier start would be counted again.

    Its path must be in the environment before a worker imports prometheus_client, which reads it at import.
    """
    os.environ.pop(_METRICS_FOLDER, None)
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="usage-pipeline-metrics-") as folder:
        os.environ[_METRICS_FOLDER] = folder
        yield
