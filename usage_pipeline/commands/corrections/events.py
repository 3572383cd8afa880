"""`usage-pipeline events`: usage events that were wrong are taken out, or replaced."""

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from usage_pipeline.events.corrections.events import Corrected, Wanted

events_app = typer.Typer(no_args_is_help=True, help="Put right usage events that were wrong.")
# The beginning of an array, or of `{"events": […]}`, perhaps behind a byte order mark.
_DOCUMENT = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[|\{\s*"events"\s*:)')
_LOOK_BYTES = 4096
_REASON = Annotated[str, typer.Option(help="Why. ops.corrections keeps it.")]


@events_app.command("void")
def void(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The event_id of each event.")],
    reason: _REASON,
    source: Annotated[
        str | None,
        typer.Option(help="Who gave the ids, where they are no UUIDs: the source that the events came with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take events out, so that they do not count. Their ids stay known: whoever sends one again sends a duplicate.

    Message archives stay. `events replace` puts an event back.
    """
    from usage_pipeline.events.corrections.events import Wanted, event_id_of

    named: dict[UUID | None, str] = {event_id_of(text, source): text for text in ids}
    _correct([Wanted(reason, event_id) for event_id in named], reason, as_json, named=named)


@events_app.command("replace")
def replace(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Events as they should be: a JSON array, or a JSON object on each line."),
    ],
    reason: _REASON,
    source: Annotated[
        str | None,
        typer.Option(
            help="Who gave the ids that are no UUIDs, where the events do not name their source: the name of a token, or "
            "`landing` for files of the landing folder."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace events that are stored, or were taken out, by those of a file with the same ids. Each is replaced as a whole."""
    from usage_pipeline import values
    from usage_pipeline.events.corrections.events import Wanted

    sender = None if source is None else values.identifier_text("--source", source)
    items = _items(file)
    if not items:
        raise UsageError(f"{file}: expected at least one event, came none")
    _correct([Wanted(reason, event=item) for item in items], reason, as_json, sender=sender)


def _items(file: Path) -> list[bytes]:
    """The events of a file, as bytes. Raises UsageError."""
    from usage_pipeline.events.files.json_items import json_items
    from usage_pipeline.events.files.names import FileKind
    from usage_pipeline.events.files.packed import BrokenFile

    settings = load_settings()
    try:
        with file.open("rb") as stream:
            # Whatever it is called: a document with all of them, or one on each line.
            kind = FileKind("document" if _DOCUMENT.match(stream.read(_LOOK_BYTES)) else "lines")
            stream.seek(0)
            return [item for _, item in json_items(stream, kind, "events", settings.max_decompressed_bytes)]
    except BrokenFile as error:
        raise UsageError(f"{file}: {error}") from None
    except OSError as error:
        raise UsageError(f"{file}: expected a file of events that can be read, came: {error.strerror}") from None


def _correct(
    wanted: "Sequence[Wanted]",
    reason: str,
    as_json: bool,
    *,
    sender: str | None = None,
    named: "Mapping[UUID | None, str] | None" = None,
) -> None:
    """`named`: what the caller calls the events, where that is not the id under which they are stored."""
    from usage_pipeline.events.corrections.events import correct, expect_reason
    from usage_pipeline.process import user_name
    from usage_pipeline.storage.postgres import connect

    expect_reason(reason)
    settings = load_settings()
    with closing(connect(settings)) as connection:
        outcomes = correct(connection, wanted, corrected_by=user_name(), settings=settings, sender=sender)
    _print(outcomes, as_json, named or {})


def _print(outcomes: "list[Corrected]", as_json: bool, named: "Mapping[UUID | None, str]") -> None:
    """Prints the outcomes. Exits with status 1 if one was refused."""
    refused = [(position, one) for position, one in enumerate(outcomes) if one.outcome == "refused"]
    counts = {name: sum(one.outcome == name for one in outcomes) for name in ("corrected", "already")}
    if as_json:
        print_json(
            {
                "success": not refused,
                **counts,
                "refused": [{"index": position, **asdict(one)} for position, one in refused],
            }
        )
    else:
        rows = [(position + 1, named.get(one.event_id, one.event_id), one.refusal) for position, one in refused]
        title = f"Corrected {counts['corrected']} of {len(outcomes)}"
        print_table(
            f"{title}, {counted(counts['already'], 'was', 'were')} so already", ["place", "event", "refused"], rows
        )
        if counts["corrected"]:
            say("Hours and days that changed are made again by the schedules; ops.late_data tells by how much.")
    raise typer.Exit(1 if refused else 0)
