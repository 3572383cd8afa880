"""What lies in the landing folder and is not read, or cannot be moved away."""

import psycopg

from usage_pipeline.events.landing.faults import faults_of
from usage_pipeline.events.landing.folder import READ_KINDS, Landing, unlisted_fault
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

_MOST_FAULTS = 1_000
_REASON_CHARACTERS = 160
_DONE = {"read": "cannot be read", "move": "was read and cannot be moved"}


def landing_faults(connection: psycopg.Connection, settings: Settings) -> list[str]:
    """Files that failed, then files of no kind that is read. Raises OSError when the folder cannot be listed."""
    if settings.landing_url is None:
        return []
    look = Landing(settings.landing_url).look()
    found = [
        f"{fault.address}: {_DONE[fault.step]}, {counted(fault.failures, 'time')} since "
        f"{fault.first_failed_at:%Y-%m-%d %H:%M}Z: {fault.reason[:_REASON_CHARACTERS]}"
        for fault in faults_of(connection, look.files)
    ]
    found += [] if look.unlisted is None else [unlisted_fault(look.unlisted)]
    found += [f"{address}: of no kind that is read. {READ_KINDS}" for address in look.unread]
    return found[:_MOST_FAULTS]
