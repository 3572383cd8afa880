"""A webhook on a free port that can fail, stall and recover, and alerts to send to it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg

from usage_pipeline.alerting.alert import Alert
from usage_pipeline.settings import Settings, load_settings


class Webhook:
    """What it received, and how it answers: `status`, or not before `let_go` is set while `is_stalling`."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.targets: list[str] = []
        self.authorizations: list[str | None] = []
        self.status = 200
        self.is_stalling = False
        self.let_go = threading.Event()
        self.asked = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.targets.append(self.path)
                hook.authorizations.append(self.headers["Authorization"])
                hook.asked.set()
                if hook.is_stalling:
                    hook.let_go.wait(30)
                if hook.status == 200:
                    hook.received.append(json.loads(body))
                self.send_response(hook.status)
                if hook.status in (301, 302):
                    self.send_header("Location", self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                hook.targets.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    @property
    def titles(self) -> list[str]:
        return [message["title"].removeprefix("[usage_pipeline] ") for message in self.received]


@contextmanager
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.let_go.set()
        hook.server.shutdown()
        hook.server.server_close()
        thread.join(10)


def told_at(hook: Webhook, settings: Settings) -> Settings:
    """The same servers, and this webhook for alerts."""
    return load_settings(
        database_url=settings.database_url.get_secret_value(),
        redis_url=settings.redis_dsn.get_secret_value(),
        alert_urls=f"json://127.0.0.1:{hook.port}/",
    )


def alert(key: str = "a", rule: str = "failed-run") -> Alert:
    return Alert(rule, f"{rule}:{key}", "failure", f"Title of {key}", f"Text of {key}", f"Remedy of {key}")


def age(postgres: psycopg.Connection, minutes: float) -> None:
    """As if everything about alerts had been so much earlier."""
    for table, columns in {
        "ops.alerts": ["first_at", "last_at", "cleared_at", "acknowledged_at", "snoozed_at", "snoozed_until"],
        "ops.alert_tellings": ["owed_at", "raised_at", "cleared_at"],
        "ops.alert_channels": ["next_try_at", "claimed_until", "seen_at"],
    }.items():
        changes = ", ".join(f"{column} = {column} - %(span)s" for column in columns)
        postgres.execute(f"update {table} set {changes}".encode(), {"span": timedelta(minutes=minutes)})
