"""`usage-pipeline conflicts`: items that were kept out because their id was stored with other content."""

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson
from usage_pipeline.commands.output import print_json, print_table
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from usage_pipeline.events.corrections.conflicts import Decision

conflicts_app = typer.Typer(
    no_args_is_help=True, help="Decide about events that came under the id of another one, with other content."
)
_IDS = Annotated[
    list[int],
    typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="Numbers of conflicts, as `conflicts list` shows."),
]
_REASON = Annotated[str, typer.Option(help="Why. It is kept with the decision.")]


@conflicts_app.command("list")
def list_all(
    decided: Annotated[bool, typer.Option("--all", help="Also list those that somebody decided about.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List what was kept out because its id was stored with other content, oldest first, and in which members the two differ.

    Of numbers, it shows both: `input_tokens 1 → 2000` was stored as 1 and came as 2000. With --json also all that came.
    """
    from usage_pipeline.events.corrections.conflicts import differences, list_conflicts
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings)) as connection:
        found = list_conflicts(connection, with_decided=decided, limit=limit + 1)
        more, found = len(found) > limit, found[:limit]
        differ = differences(connection, found, settings)
    if as_json:
        documents = [
            asdict(one)
            | asdict(differ[one.event_conflict_id])
            | {"other_payload": one.other_payload.decode(errors="backslashreplace")}
            for one in found
        ]
        print_json({"conflicts": documents, "has_more": more})
        return
    rows = [
        (
            one.event_conflict_id,
            one.kind,
            differ[one.event_conflict_id].external_id or one.event_id,
            differ[one.event_conflict_id].source,
            one.times,
            f"{one.detected_at:%Y-%m-%d %H:%M}",
            one.outcome or "open",
            differ[one.event_conflict_id].said,
        )
        for one in found
    ]
    print_table(
        f"The first {counted(limit, 'conflict')} (--limit)" if more else counted(len(found), "conflict"),
        ["number", "kind", "event", "source", "came", "first", "outcome", "differs in"],
        rows,
    )


@conflicts_app.command("accept")
def accept(ids: _IDS, reason: _REASON, as_json: AsJson = False) -> None:
    """Replace what is stored by what was kept out, for events. What was stored is a duplicate when it comes again."""
    _decide(ids, "accepted", reason, as_json)


@conflicts_app.command("dismiss")
def dismiss(ids: _IDS, reason: _REASON, as_json: AsJson = False) -> None:
    """Decide that what is stored is right. It stays listed with --all, and decided when the same comes again."""
    _decide(ids, "dismissed", reason, as_json)


def _decide(ids: list[int], decision: "Decision", reason: str, as_json: bool) -> None:
    from usage_pipeline.events.corrections.conflicts import decide
    from usage_pipeline.process import user_name
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings)) as connection:
        decided = decide(connection, ids, decision, reason=reason, decided_by=user_name(), settings=settings)
    refused = [one for one in decided if one.outcome == "refused"]
    if as_json:
        already = sum(one.outcome == "already" for one in decided)
        done = len(decided) - len(refused) - already
        print_json({"success": not refused, decision: done, "already": already, "refused": map(asdict, refused)})
    else:
        rows = [(one.event_conflict_id, one.outcome, one.refusal) for one in decided]
        print_table(counted(len(decided), "conflict"), ["number", "outcome", "refused"], rows)
    raise typer.Exit(1 if refused else 0)
