"""`usage-pipeline-webserver`: Dagster's own web server behind the guard of `ui/`, with all options of `dagster-webserver`.

Started as `dagster-webserver`, Dagster's server obeys every web page that its user visits, and has no login.
"""

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from dagster_webserver.cli import main as run_dagster_webserver

from usage_pipeline.access.audit import AuditLog
from usage_pipeline.access.proxies import TrustedProxies
from usage_pipeline.api.connections.protocol import BACKLOG, bounded_connections
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline.ui.guard import MAX_QUERY_BYTES, Guard
from usage_pipeline.ui.login import Login
from usage_pipeline.ui.origin import LOOPBACK_NAMES
from usage_pipeline.ui.password import PasswordHash

log = logging.getLogger("usage_pipeline.ui")
# A message of a WebSocket is the query of a subscription: a few thousand bytes. Hundreds of them may be open.
# Without `proxy_headers`, the address of a client is that of its connection: a header from anybody on this machine must not
# make it that of a trusted proxy.
_SERVER: dict[str, Any] = {
    "ws_max_size": MAX_QUERY_BYTES,
    "ws_max_queue": 4,
    "proxy_headers": False,
    "server_header": False,
    "backlog": BACKLOG,
}


def main() -> None:
    """Entry point. With a wrong setting it prints one line, and exits with status 2."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"usage-pipeline-webserver: {error}", file=sys.stderr)
        sys.exit(2)
    # Dagster builds its application and hands it to this function. A test attacks the result, so that a Dagster which does it
    # otherwise is noticed before it is shipped.
    uvicorn.run = functools.partial(_run_guarded, settings, uvicorn.run)
    run_dagster_webserver()  # type: ignore[no-untyped-call]  # dagster's own annotation is missing


def _run_guarded(settings: Settings, run: Callable[..., None], app: Any, **options: Any) -> None:
    given = settings.dagster_ui_password_hash
    password = PasswordHash.parse(given.get_secret_value()) if given else None
    login = Login(password, TrustedProxies.of(settings))
    hosts = LOOPBACK_NAMES | set(settings.ui_hosts)
    if hosts > LOOPBACK_NAMES and login.password is None and login.proxies.user_header is None:
        log.warning(
            "Nobody is asked to sign in, and hosts beyond this machine are allowed: set DAGSTER_UI_PASSWORD_HASH or "
            "TRUSTED_USER_HEADER, unless something before this server asks"
        )
    guard = Guard(app, allowed_hosts=hosts, login=login, audit=AuditLog.of(settings))
    run(guard, http=bounded_connections(settings), **options | _SERVER)


if __name__ == "__main__":
    main()
