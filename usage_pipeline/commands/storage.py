"""`usage-pipeline migrate`, `archive` and `erase-user`: the schema, archived partitions, and erasure of a user."""

import logging
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, past_date
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from usage_pipeline.storage.archives.store import ArchiveStore

archive_app = typer.Typer(no_args_is_help=True, help="Old data in Parquet files: list the files, or read a day back.")


def migrate(as_json: AsJson = False) -> None:
    """Bring the database schema to the newest version. It is safe to run twice, and from two processes at once."""
    from usage_pipeline.status.postgres_parts import start_faults
    from usage_pipeline.storage import migrations
    from usage_pipeline.storage.connecting.database import Database
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    version = migrations.migrate(Database.of_usage(settings), time_zone=settings.usage_timezone)
    with closing(connect(settings)) as connection:
        for fault in start_faults(connection, settings):
            logging.getLogger(__name__).warning("%s", fault)
    print_json({"success": True, "version": version}) if as_json else say(f"Schema version {version}.")


@archive_app.command("list")
def list_archives(
    everything: Annotated[bool, typer.Option("--all", help="Also list files that were read back or deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """List archived partitions, oldest first."""
    from usage_pipeline.storage.archives.manifest import archives
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        found = archives(connection, only_in_files=not everything)
    if as_json:
        print_json({"archives": [asdict(archive) | {"state": archive.state} for archive in found]})
        return
    rows = [
        (each.archive_id, each.table_name, f"{each.chunk_start:%Y-%m-%d %H:%M}", each.rows, each.bytes, each.state)
        for each in found
    ]
    print_table(counted(len(found), "archive"), ["number", "table", "from (UTC)", "rows", "bytes", "state"], rows)


@archive_app.command("restore")
def restore_day(
    day: Annotated[str, typer.Argument(metavar="DAY", help="A day YYYY-MM-DD in USAGE_TIMEZONE.")],
    as_json: AsJson = False,
) -> None:
    """Read the archived rows of a day back into their tables. They stay there for 24 hours, or until RETENTION_DAYS
    removes them."""
    from usage_pipeline.rollups.daily import current_day
    from usage_pipeline.storage.archives.files import restore
    from usage_pipeline.storage.archives.manifest import archives_of_day
    from usage_pipeline.storage.archives.store import ArchiveDamaged
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    wanted = past_date("DAY", day, today=current_day(settings.timezone))
    restored, failed = [], []
    with closing(connect(settings)) as connection:
        found = archives_of_day(connection, wanted, settings.timezone)
        store = _place(settings) if found else None
        for archive in found:
            document = {"table": archive.table_name, "chunk_start": archive.chunk_start, "rows": archive.rows}
            try:
                if store:
                    restore(connection, store, archive, interval_hours=settings.chunk_time_interval_hours)
                restored.append(document)
            except ArchiveDamaged as damage:
                failed.append(document | {"reason": str(damage)})
    if as_json:
        print_json({"success": not failed, "day": wanted, "restored": restored, "failed": failed})
    else:
        rows = [(each["table"], each["chunk_start"], each["rows"]) for each in restored]
        title = (
            f"Read back for {wanted}" if restored else f"Nothing to read back: no rows of {wanted} are only in a file"
        )
        print_table(title, ["table", "from (UTC)", "rows"], rows)
        for each in failed:
            say(f"{each['table']}: {each['reason']}", to_errors=True)
    raise typer.Exit(1 if failed else 0)


def erase_user(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user_id, exactly as in the events.")],
    as_json: AsJson = False,
) -> None:
    """Erase a user everywhere, also in Parquet files.

    It removes the prompts and archived messages of the user, and puts a pseudonym in place of the id. When nothing has the id,
    it says so, names ids that differ only in spelling, and exits with status 1.
    """
    from usage_pipeline.events.erasure.erase import erase

    # Refused input may have an id that is longer than any that is stored.
    if not user_id or "\0" in user_id:
        raise UsageError("ID: expected 1 character or more, none of them NUL, came " + ("one" if user_id else "none"))
    result = erase(load_settings(), user_id)
    is_done = result.is_found and not result.problems
    if as_json:
        print_json({"success": is_done, "found": result.is_found, **asdict(result)})
    elif result.counts or result.problems:
        print_table(f"Erased as {result.pseudonym}", ["where", "rows"], sorted(result.counts.items()))
    elif result.was_erased_before:
        say(f"Erased before, as {result.pseudonym}. Nothing new has this id.")
    if not result.is_found:
        say(f"No such user: nothing has the id {user_id!r}. Nothing was erased.", to_errors=True)
    for spelling in result.near_spellings:
        # Two ways to compose a character look the same.
        written = "" if spelling.isascii() else f" It is as ASCII {spelling!a}."
        say(f"Did you mean {spelling!r}?{written}", to_errors=True)
    for problem in result.problems:
        say(problem, to_errors=True)
    raise typer.Exit(0 if is_done else 1)


def _place(settings: Settings) -> "ArchiveStore":
    from usage_pipeline.storage.archives.store import archive_store

    store = archive_store(settings)
    if store is None:
        raise UsageError("ARCHIVE_URL: expected the folder or address of the archives, came none")
    return store
