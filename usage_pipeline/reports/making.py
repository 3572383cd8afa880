"""Makes a report: reads its numbers, keeps its files and sends them. To make it again is safe."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from usage_pipeline.reports.contents import Contents, read_contents
from usage_pipeline.reports.files import Files, files_of, keep
from usage_pipeline.reports.report import Report
from usage_pipeline.reports.sending import send
from usage_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Made:
    """A report that was made: `sent_to` are the channels that got it now."""

    contents: Contents
    files: Files
    is_kept: bool
    sent_to: Sequence[str]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Whether a report is sent: to channels that never got it, or with `since` to those that did not get it since then."""

    is_sent: bool
    since: datetime | None = None


def make_report(connection: psycopg.Connection, settings: Settings, report: Report, dispatch: Dispatch) -> Made:
    """Makes a report. The folder has it before anybody is told.

    Raises NotRolledUp, ReportsUnavailable, NotSent, psycopg.Error.
    """
    contents = read_contents(connection, report, settings.timezone)
    files = files_of(contents)
    if settings.reports_url:
        keep(settings.reports_url, files)
    sent = send(connection, settings, contents, files, dispatch.since) if dispatch.is_sent else []
    return Made(contents, files, settings.reports_url is not None, sent)
