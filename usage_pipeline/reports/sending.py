"""Sends reports to the channels of ALERT_URLS, to each once, as `ops.report_deliveries` knows."""

import tempfile
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import psycopg

from usage_pipeline.alerting.sending.channels import Sending, Text, named, shortened
from usage_pipeline.reports.contents import Contents
from usage_pipeline.reports.files import Files
from usage_pipeline.reports.report import Report
from usage_pipeline.reports.words import message
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load


class NotSent(Exception):
    """Some channels did not take a report; those that did are noted. The message is one line without addresses."""


def send(
    connection: psycopg.Connection, settings: Settings, contents: Contents, files: Files, since: datetime | None
) -> Sequence[str]:
    """Sends a report with its files to each channel that has not got it (since a moment), and returns who got it now.

    A process that dies between sending and noting sends it again. Raises NotSent, psycopg.Error.
    """
    has_it = _delivered(connection, contents.report, since)
    channels = [(name, url) for name, url in named(settings.alert_channels) if name not in has_it]
    sent, problems = [], []
    with tempfile.TemporaryDirectory(prefix="usage-report-", ignore_cleanup_errors=True) as folder:
        text = _text(contents, _written(Path(folder), files))
        sending = [Sending(name, url, settings.alert_timeout_seconds) for name, url in channels]
        for one in sending:
            one.start(text)
        for one in sending:
            if problem := one.problem():
                problems.append(f"{one.name}: {problem}")
                continue
            _note(connection, contents, one.name)
            sent.append(one.name)
    if problems:
        raise NotSent("; ".join(problems))
    return sent


def _text(contents: Contents, paths: Sequence[Path]) -> Text:
    said = message(contents)
    return Text(f"[usage_pipeline] {contents.report.title}", lambda most: shortened(said, most), "info", paths)


def _written(folder: Path, files: Files) -> Sequence[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    # The picture first: some services show only that.
    return sorted((folder / name for name in files), key=lambda path: (path.suffix != ".png", path.suffix))


def _delivered(connection: psycopg.Connection, report: Report, since: datetime | None) -> set[str]:
    asked = {"grain": report.window.grain, "window_start": report.window.day, "since": since}
    return {channel for (channel,) in connection.execute(load("reports/select_deliveries"), asked)}


def _note(connection: psycopg.Connection, contents: Contents, channel: str) -> None:
    cost: Decimal | None = contents.totals["cost_usd"]
    arguments = {
        "grain": contents.report.window.grain,
        "window_start": contents.report.window.day,
        "channel": channel,
        "as_of": contents.as_of,
        "cost_usd": cost,
    }
    connection.execute(load("reports/upsert_delivery"), arguments)
