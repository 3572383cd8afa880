"""What is served over HTTP: `usage-pipeline api` runs our service, `ui-password` makes the hash for the Dagster UI."""

import logging
import socket
import sys
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, unset_servers
from usage_pipeline.commands.output import print_json, say
from usage_pipeline.settings import load_settings

_FEWEST_CHARACTERS = 12


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
) -> None:
    """Run the HTTP service: ingest, usage, rankings, dashboard.

    It stops on SIGTERM or SIGINT, after it has answered the requests that it has begun.
    """
    from usage_pipeline.api.server import serve

    if note := unset_servers(load_settings()):
        logging.getLogger(__name__).info("%s.", note)
    _expect_free(host, port)
    serve(host=host, port=port, workers=workers)


def _expect_free(host: str, port: int) -> None:
    """Raises UsageError where nobody could listen. The web server would say so in a log, and end with a status of its own."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise UsageError(f"--host: expected a name or address of this machine, came {host!r}: {said}") from None
    family, kind, protocol, _, address = found[0]
    try:
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise UsageError(
            f"--host and --port: expected an address of this machine with a free port, came {host} and {port}: {error.strerror}"
        ) from None


def ui_password(as_json: AsJson = False) -> None:
    """Make the hash of a password for the Dagster UI. Asks for it twice, or reads one line of standard input."""
    from usage_pipeline.ui.password import hash_password

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < _FEWEST_CHARACTERS:
        raise UsageError(f"expected a password of at least {_FEWEST_CHARACTERS} characters, came {len(password)}")
    made = hash_password(password)
    if as_json:
        print_json({"hash": made})
    else:
        # In single quotes: a shell and compose put variables in for what begins with $.
        say(f"DAGSTER_UI_PASSWORD_HASH='{made}'")
