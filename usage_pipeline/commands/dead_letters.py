"""`usage-pipeline dead-letters`: lists refused input, and tries it again."""

from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table
from usage_pipeline.settings import load_settings

if TYPE_CHECKING:
    from usage_pipeline.drain.corrections import Correction

dead_letters_app = typer.Typer(no_args_is_help=True, help="Refused input: list it, or try it again.")


@dead_letters_app.command("list")
def list_dead_letters(
    family: Annotated[
        list[str] | None, typer.Option(help="Only this family, such as api_key. Repeat it for more families.")
    ] = None,
    replayed: Annotated[bool, typer.Option("--all", help="Also list the dead letters that count by now.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List refused input, oldest first, and why it was refused."""
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.storage.postgres import connect

    _expect_families(family)
    with closing(connect(load_settings())) as connection:
        letters = dead_letters.list_dead_letters(
            connection, families=family or [], with_replayed=replayed, limit=limit, with_raw=as_json
        )
    if as_json:
        texts = ({"source_key": _text(letter.source_key), "raw": _text(letter.raw)} for letter in letters)
        print_json({"dead_letters": [asdict(letter) | text for letter, text in zip(letters, texts, strict=True)]})
        return
    rows = [
        (
            letter.dead_letter_id,
            letter.family,
            _text(letter.source_key),
            f"{letter.created_at:%m-%d %H:%M}",
            letter.reason,
        )
        for letter in letters
    ]
    print_table(f"{len(letters)} dead letters", ["number", "family", "key", "refused", "reason"], rows)


@dead_letters_app.command("replay")
def replay_dead_letters(
    ids: Annotated[
        list[int] | None,
        typer.Argument(min=1, max=2**63 - 1, help="Numbers of dead letters. Without a number: all open ones."),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Only this family, such as api_key. Repeat it for more families.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="MEMBER=VALUE",
            help="Set this member before, such as total_file_size=0. Needs numbers and a reason. Repeat it for more members.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why the members are set. ops.corrections keeps it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Try refused input again, after you have corrected the cause. Each dead letter counts once, however often you try.

    In JSON, the value of --set is JSON, or text if it is no JSON.
    """
    correction = _correction(changes or [], reason, ids or [])
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.drain.store import UsageStore
    from usage_pipeline.events.landing.dead_letters import KINDS, replay_item
    from usage_pipeline.process import process_name
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    _expect_families(family)
    with closing(connect(settings)) as connection:
        if ids:
            known = dead_letters.list_dead_letters(
                connection, ids=ids, with_replayed=True, limit=len(ids), with_raw=False
            )
            unknown = sorted(set(ids) - {letter.dead_letter_id for letter in known})
            if unknown:
                raise UsageError(
                    f"expected numbers of dead letters, came {', '.join(map(str, unknown))}, which none has"
                )
        store = UsageStore(connection, usage_timezone=settings.usage_timezone, drained_by=process_name())
        results = list(
            dead_letters.replay(
                connection,
                store,
                times=settings.possible_times,
                ids=ids or [],
                families=family or [],
                others=dict.fromkeys(KINDS, partial(replay_item, settings=settings)),
                correction=correction,
            )
        )
    refused = [result for result in results if not result.is_counted]
    in_part = [result for result in results if result.is_counted and result.reason]
    if as_json:
        print_json(
            {
                "success": not refused,
                "replayed": len(results) - len(refused),
                "refused": map(asdict, refused),
                "in_part": map(asdict, in_part),
            }
        )
    else:
        rows = [(result.dead_letter_id, result.family, "refused: " + result.reason) for result in refused]
        rows += [(result.dead_letter_id, result.family, result.reason) for result in in_part]
        print_table(f"Replayed {len(results) - len(refused)} of {len(results)}", ["number", "family", "outcome"], rows)
    raise typer.Exit(1 if refused else 0)


def _correction(changes: list[str], reason: str, ids: list[int]) -> "Correction | None":
    from usage_pipeline.drain.corrections import Correction
    from usage_pipeline.process import user_name

    if not changes:
        return None
    if not reason.strip():
        raise UsageError("--set: expected a --reason, because it changes a number; ops.corrections keeps it")
    if not ids:
        raise UsageError("--set: expected the numbers of the dead letters that it changes, came none")
    members = dict[str, str]()
    for change in changes:
        name, separator, value = change.partition("=")
        if not (name and separator):
            raise UsageError(f"--set: expected MEMBER=VALUE, came {change}")
        members[name] = value
    return Correction(members, reason.strip(), user_name())


def _expect_families(families: list[str] | None) -> None:
    """Raises UsageError for a family that no dead letter can have."""
    from usage_pipeline.drain.rounds import ALL_FAMILIES
    from usage_pipeline.events.landing.dead_letters import KINDS

    known = (*ALL_FAMILIES, "merchant", *sorted(KINDS))
    for family in families or []:
        if family not in known:
            raise UsageError(f"--family: expected one of {', '.join(known)}, came {family!r}")


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
