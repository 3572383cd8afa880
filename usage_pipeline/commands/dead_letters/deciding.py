"""`dead-letters replay` and `discard`: what becomes of refused input."""

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.dead_letters.choice import Families, Source, chosen, expect_known, why_none_is_open
from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    import psycopg

    from usage_pipeline.drain.corrections import Correction
    from usage_pipeline.drain.dead_letters import Choice

Yes = Annotated[
    bool, typer.Option("--yes", help="Do it. Without it, dead letters that are not named one by one are only counted.")
]


def replay_dead_letters(
    numbers: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers of dead letters, or ranges such as 17-2016. Without any: all open ones."),
    ] = None,
    family: Families = None,
    source: Source = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="MEMBER=VALUE",
            help="Set this member before, such as total_file_size=0 or tags.project=x. Needs a choice and a reason. "
            "Repeat it for more members.",
        ),
    ] = None,
    removals: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="MEMBER", help="Take this member away before. Repeat it for more members."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why members are changed. ops.corrections keeps it.")] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Try refused input again, after you have corrected the cause. Each dead letter counts once, however often you try.

    In JSON, the value of --set is JSON, or text if it is no JSON or the member is a text. One that was discarded is tried only
    if you name its number.
    """
    correction = _correction(changes or [], removals or [], reason)
    choice = chosen(numbers, family, source)
    if correction is not None and not (choice.ids or choice.ranges or source):
        raise UsageError("--set: expected the numbers of the dead letters that it changes, or --source, came none")
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.drain.store import UsageStore
    from usage_pipeline.events.landing.dead_letters import landed
    from usage_pipeline.process import process_name
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings)) as connection:
        expect_known(connection, choice)
        if correction is not None:
            _expect_yes(connection, choice, "changed", yes=yes)
        store = UsageStore(connection, usage_timezone=settings.usage_timezone, drained_by=process_name())
        results = list(
            dead_letters.replay(
                connection,
                store,
                choice,
                times=settings.possible_times,
                others=landed(settings),
                correction=correction,
            )
        )
        nothing = "" if results else f"Nothing to replay: {why_none_is_open(connection, choice)}."
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
        rows = [(str(result.dead_letter_id), result.family, "refused: " + result.reason) for result in refused]
        rows += [(str(result.dead_letter_id), result.family, result.reason) for result in in_part]
        title = f"Replayed {len(results) - len(refused)} of {counted(len(results), 'dead letter')}"
        say(nothing) if nothing else print_table(title, ["number", "family", "outcome"], rows)
    raise typer.Exit(1 if refused else 0)


def discard_dead_letters(
    reason: Annotated[str, typer.Option(help="Why they do not count. It is kept with each of them.")],
    numbers: Annotated[
        list[str] | None, typer.Argument(help="Numbers of dead letters, or ranges such as 17-2016.")
    ] = None,
    family: Families = None,
    source: Source = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Decide that refused input does not count. It is kept, with who decided it, when and why; nothing is deleted.

    Alerts and checks end then. You can still replay a discarded one by its number.
    """
    from usage_pipeline.drain.ways_out.discard import Decision, discard
    from usage_pipeline.process import user_name
    from usage_pipeline.storage.postgres import connect

    _expect_reason(reason, "because nobody counts them then")
    choice = chosen(numbers, family, source)
    if not (numbers or family or source):
        raise UsageError("expected numbers of dead letters, --family or --source, came none")
    with closing(connect(load_settings())) as connection:
        expect_known(connection, choice)
        _expect_yes(connection, choice, "discarded", yes=yes)
        report = discard(connection, choice, Decision(reason.strip(), user_name()))
        is_nothing = not (report.by_family or report.were_discarded or report.counted)
        nothing = f"Nothing to discard: {why_none_is_open(connection, choice)}." if is_nothing else ""
    if as_json:
        print_json(
            {
                "success": not report.counted,
                "discarded": report.by_family.total(),
                "by_family": dict(report.by_family),
                "were_discarded": report.were_discarded,
                "counted": report.counted,
            }
        )
    else:
        rows = [(str(number), "counts already, and nothing takes that back") for number in report.counted]
        rows += [(str(number), "was discarded before") for number in report.were_discarded]
        title = f"Discarded {counted(report.by_family.total(), 'dead letter')}"
        say(nothing) if nothing else print_table(title, ["number", "left as it is"], rows)
    raise typer.Exit(1 if report.counted else 0)


def _expect_yes(connection: "psycopg.Connection", choice: "Choice", what: str, *, yes: bool) -> None:
    """Raises UsageError, with the number of dead letters, where many may be meant and nobody said yes."""
    from usage_pipeline.drain.ways_out.discard import chosen as open_of

    if yes or choice.is_named:
        return
    found = open_of(connection, choice)
    if found.by_family:
        raise UsageError(f"{found.said} would be {what}: expected --yes as well")


def _correction(changes: list[str], removals: list[str], reason: str) -> "Correction | None":
    from usage_pipeline.drain.corrections import Correction
    from usage_pipeline.drain.ways_out.advice import VALUE
    from usage_pipeline.process import user_name

    members: dict[str, str | None] = {}
    for change in changes:
        name, separator, value = change.partition("=")
        if not (name and separator):
            raise UsageError(f"--set: expected MEMBER=VALUE, came {change}")
        if value == VALUE:
            raise UsageError(
                f"--set: expected the right value of {name}, came {VALUE}. If it is that text: {name}='\"{VALUE}\"'"
            )
        members[name] = value
    for name in removals:
        if name in members:
            raise UsageError(f"--unset: expected a member that --set does not set, came {name}")
        members[name] = None
    if not members:
        return None
    _expect_reason(reason, "because it changes what is counted; ops.corrections keeps it")
    return Correction(members, reason.strip(), user_name())


def _expect_reason(reason: str, why: str) -> None:
    from usage_pipeline.drain.ways_out.advice import WHY

    if not reason.strip() or reason.strip() == WHY:
        raise UsageError(f"--reason: expected a reason in your words, {why}; came {reason.strip() or 'none'}")
