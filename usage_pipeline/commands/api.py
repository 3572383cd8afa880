"""`usage-pipeline api`: the HTTP service."""

from typing import Annotated

import typer


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
) -> None:
    """Run the HTTP service: ingest, usage, rankings, dashboard.

    It stops on SIGTERM or SIGINT, after it has answered the requests that it has begun.
    """
    from usage_pipeline.api.server import serve

    serve(host=host, port=port, workers=workers)
