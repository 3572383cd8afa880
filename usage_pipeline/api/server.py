"""Runs the HTTP service under uvicorn until SIGTERM or SIGINT. It answers the requests that it has begun before it stops."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from usage_pipeline.api.connections.protocol import BACKLOG, bounded_connections
from usage_pipeline.api.workers import Workers
from usage_pipeline.settings import Settings, load_settings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
APP = "usage_pipeline.api.app:app_of_environment"
STOP_SECONDS = 60
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def serve(*, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, workers: int = 1, app: str = APP) -> None:
    """Serves in this process, or in `workers` child processes that share the port. Raises SettingsError before it starts.

    `app` names a function that makes the app; a benchmark has one around ours.
    """
    settings = load_settings()
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops by handlers of its own, and then raises the signal again for these: a stop is no failure.
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        **server_options(settings),
    )
    with _shared_metrics(workers):
        if workers == 1:
            server = uvicorn.Server(config)
            server.run()
            has_failed = not server.started
        else:
            with closing(config.bind_socket()) as listening:
                supervisor = Workers(config, [listening])
                supervisor.run()
            has_failed = supervisor.has_failed
    if has_failed:
        sys.exit(STARTUP_FAILURE)


def server_options(settings: Settings) -> dict[str, Any]:
    """How uvicorn serves the app, in every process."""
    return {
        "http": bounded_connections(settings),
        # No route is a WebSocket, and one would be without our limits.
        "ws": "none",
        "backlog": BACKLOG,
        # After that the connections that are left are cut; what is being stored is finished all the same.
        "timeout_graceful_shutdown": STOP_SECONDS,
        "access_log": False,
        "server_header": False,
        # The launcher's format; uvicorn's own would be a second one.
        "log_config": None,
    }


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
