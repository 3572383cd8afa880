"""`dead-letters list`, `show` and `export`: they change nothing."""

import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.dead_letters.choice import (
    NUMBERS,
    Families,
    Source,
    chosen,
    expect_known,
    why_none_is_open,
)
from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from usage_pipeline.drain.dead_letters import Choice, StoredDeadLetter

# More of a value is no help on a terminal, and may be 512 MB.
_SHOWN_CHARACTERS = 2_000
_MOST_RANGES = 10


def list_dead_letters(
    family: Families = None,
    source: Source = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list the dead letters that count by now, and discarded ones.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List refused input, oldest first, and why it was refused."""
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.events.landing.dead_letters import place
    from usage_pipeline.storage.postgres import connect

    choice = chosen(None, family, source)
    with closing(connect(load_settings())) as connection:
        expect_known(connection, choice)
        letters = dead_letters.list_dead_letters(
            connection, choice, with_replayed=everything, with_discarded=everything, limit=limit + 1, with_raw=as_json
        )
    more, letters = len(letters) > limit, letters[:limit]
    if as_json:
        print_json({"dead_letters": [_document(letter) for letter in letters], "has_more": more})
        return
    columns = ["number", "family", "key or file", "place", "refused", "reason"]
    rows = [
        (
            str(letter.dead_letter_id),
            letter.family,
            _text(letter.source_key),
            place(letter),
            f"{letter.created_at:%m-%d %H:%M}",
            letter.reason,
            letter.state,
        )[: len(columns) + everything]
        for letter in letters
    ]
    title = f"The first {counted(limit, 'dead letter')} (--limit)" if more else counted(len(letters), "dead letter")
    print_table(title, [*columns, "state"][: len(columns) + everything], rows)


def show_dead_letter(
    number: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Number of the dead letter.")],
    raw: Annotated[Path | None, typer.Option(help="Also write its raw value to this file, as it came.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: what came, from where, why it was refused, and what you can do."""
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.drain.ways_out.advice import diagnose
    from usage_pipeline.events.landing.dead_letters import landed, place
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    choice = dead_letters.Choice(ids=[number])
    with closing(connect(settings)) as connection:
        expect_known(connection, choice)
        letter = dead_letters.whole(connection, number)
    if letter is None:
        raise UsageError(f"no dead letter has the number {number}")
    other = landed(settings).get(letter.family)
    diagnosis = diagnose(letter, settings.possible_times, other, _counter_day(letter))
    if raw is not None:
        with _sink(raw) as put:
            put(letter.raw)
    if as_json:
        advice = [asdict(one) for one in diagnosis.advice]
        more = {"raw_base64": b64encode(letter.raw).decode(), "refused_now": diagnosis.refusal, "advice": advice}
        print_json(_document(letter) | {"place": place(letter)} | more)
        return
    rows = [(name, value) for name, value in _described(letter, place(letter), diagnosis.refusal) if value]
    print_table(f"Dead letter {number}: {letter.state}", ["field", "value"], [*rows, ("came", _value(letter))])
    for one in diagnosis.advice:
        say(f"{one.when}{':' if one.command else '.'}")
        if one.command:
            say(f"  {one.command}")


def export_dead_letters(
    file: Annotated[Path, typer.Argument(help="The new file. `-` is standard output.")] = Path("-"),
    numbers: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers of dead letters, or ranges such as 17-2016. Without any: all open ones."),
    ] = None,
    family: Families = None,
    source: Source = None,
    with_reasons: Annotated[
        bool, typer.Option("--with-reasons", help="Put number, reason and place around each item.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write refused input as JSON lines, to put it right with other tools and send it again. It changes nothing.

    Items of landed files are written as they came. All others have an object around them, with the raw bytes in base64.
    """
    from usage_pipeline.drain.ways_out.discard import chosen as open_of
    from usage_pipeline.drain.ways_out.export import write_lines
    from usage_pipeline.events.landing.dead_letters import KINDS
    from usage_pipeline.storage.postgres import connect

    if as_json and str(file) == "-":
        raise UsageError("--json: expected a file for the lines as well, came none")
    if NUMBERS.fullmatch(str(file)):
        raise UsageError(f"expected a file, or - for standard output, before numbers of dead letters, came {file}")
    choice = chosen(numbers, family, source)
    with closing(connect(load_settings())) as connection:
        expect_known(connection, choice)
        families = sorted(open_of(connection, choice).by_family)
        if not with_reasons and len(families) > 1 and set(families) & set(KINDS):
            # As they came, lines of events and of archives go to different folders, and others to none.
            raise UsageError(f"--family: expected one of {', '.join(families)}, which are all here, or --with-reasons")
        with _sink(file) as put:
            written = write_lines(put, connection, choice, plain_families=KINDS, with_reasons=with_reasons)
        nothing = "" if written else f"Nothing to write: {why_none_is_open(connection, choice)}."
    ranges = _as_ranges(written)
    close = (
        f"usage-pipeline dead-letters discard {' '.join(ranges[:_MOST_RANGES])}{_options(choice)} --reason WHY --yes"
    )
    if as_json:
        print_json({"success": True, "exported": len(written), "file": str(file), "numbers": ranges, "close": close})
        return
    say(nothing or f"Wrote {counted(len(written), 'line')}. Each of them stays a dead letter.", to_errors=True)
    if written and len(ranges) <= _MOST_RANGES:
        say("When they were put right and have arrived, close them:", to_errors=True)
        say(f"  {close}", to_errors=True)


def _options(choice: "Choice") -> str:
    return "".join(f" --family {family}" for family in choice.families)


def _as_ranges(numbers: list[int]) -> list[str]:
    """Ascending numbers as ranges without gaps: a number that came in between meanwhile is in none."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [f"{first}-{last}" if first < last else f"{first}" for first, last in spans]


@contextmanager
def _sink(file: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes to a new file, or to standard output as it is. On a terminal, nothing of it is obeyed.

    Raises UsageError if the file cannot be made.
    """
    from usage_pipeline.drain.ways_out.export import new_file

    if str(file) == "-":
        is_read_by_people = sys.stdout.isatty()
        yield (lambda line: say(_text(line.rstrip(b"\n")))) if is_read_by_people else sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    try:
        stream = new_file(file)
    except OSError as error:
        raise UsageError(f"{file}: expected a file that can be made new, came {error.strerror}") from None
    with stream:
        yield stream.write


def _document(letter: "StoredDeadLetter") -> dict[str, object]:
    texts = {"source_key": _text(letter.source_key), "raw": _text(letter.raw), "state": letter.state}
    return asdict(letter) | texts


def _described(letter: "StoredDeadLetter", place: str, refusal: str) -> Iterator[tuple[str, str]]:
    yield "family", letter.family
    yield "key or file", ", ".join(filter(None, (_text(letter.source_key), place)))
    yield "member", letter.member or ""
    yield "reason", letter.reason
    # Rules and settings may have changed since, and so may the clock.
    yield "refused now", refusal if refusal != letter.reason else ""
    yield "refused", f"{letter.created_at:%Y-%m-%d %H:%M:%SZ}"
    yield "claimed", f"{letter.claimed_at:%Y-%m-%d %H:%M:%SZ}"
    if letter.tried_at is not None:
        yield "replays", f"{letter.attempts}, refused again last on {letter.tried_at:%Y-%m-%d %H:%M:%SZ}"
    if letter.discarded_at is not None:
        yield "discarded", f"{letter.discarded_at:%Y-%m-%d %H:%M:%SZ} by {letter.discarded_by}: {letter.discard_reason}"
    if letter.replayed_at is not None:
        yield "counts since", f"{letter.replayed_at:%Y-%m-%d %H:%M:%SZ}"


def _counter_day(letter: "StoredDeadLetter") -> date | None:
    """The day of a merchant counter whose key itself is right."""
    from usage_pipeline.merchants.counters import parse_counter_key
    from usage_pipeline.values import Malformed

    try:
        key = parse_counter_key(letter.source_key) if letter.family == "merchant" else None
    except Malformed:
        return None
    return None if key is None else key.day


def _value(letter: "StoredDeadLetter") -> str:
    """The value, shortened for a terminal."""
    from usage_pipeline.drain.batch import raw_value

    if letter.raw_format == "dump":
        return f"a key of another type, {counted(letter.raw_bytes, 'byte')} of Redis's DUMP"
    text = _text(letter.raw[: 4 * _SHOWN_CHARACTERS])
    if letter.raw_format == "hash" and letter.raw_bytes <= 4 * _SHOWN_CHARACTERS:
        fields = raw_value(letter.raw, "hash")
        if isinstance(fields, list):
            text = ", ".join(
                f"{_text(name)}: {_text(each)}" for name, each in zip(fields[::2], fields[1::2], strict=False)
            )
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}… ({counted(letter.raw_bytes, 'byte')}; --raw FILE or --json has all)"


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
