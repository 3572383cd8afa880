"""What can be done with one dead letter: commands to paste, and when each is right. It only reads."""

import re
import shlex
from collections.abc import Set
from dataclasses import dataclass
from datetime import date

import msgspec

from usage_pipeline.drain.corrections import settable_members
from usage_pipeline.drain.dead_letters import Other, StoredDeadLetter, expect_readable, settable
from usage_pipeline.drain.event_queue import EVENT
from usage_pipeline.drain.members import decode_members
from usage_pipeline.values import Malformed, PossibleTimes

# Placeholders in what is to be pasted. The commands refuse them, so that none is stored by mistake.
VALUE, WHY = "VALUE", "WHY"
_PROGRAM = "usage-pipeline"
_TOTAL, _SUMMED = "total_tokens", ("input_tokens", "output_tokens")
_NULL = msgspec.Raw(b"null")
_REPLAY = "usage-pipeline dead-letters replay"
# Reasons of ours begin with the member; those of JSON decoders name it somewhere.
_AT_ITS_BEGINNING = re.compile(r"([A-Za-z_][\w.]*)(?:, \w+)*: expected ")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"contains unknown field `([^`]+)`")
_AT_A_PATH = re.compile(r" - at `\$\.([\w.]+)")
_SUMMED_UP = re.compile(r"(\w+): expected .*\. Leave \1 out to have it summed up$")
_WHOLE = re.compile(r"usage(?:\.\w+)?: expected (?:at most|[\w +]+ within) (\w+) = [\d.]+, of which ")
_NAMES = (_MISSING, _AT_A_PATH, _AT_ITS_BEGINNING)


@dataclass(frozen=True, slots=True)
class Advice:
    """A command to paste, and when it is right. Without a command, what to do by hand."""

    when: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why it would be refused now (empty: nothing in the value itself is wrong), and what can be done, the best first."""

    refusal: str
    advice: tuple[Advice, ...]


def diagnose(
    letter: StoredDeadLetter, times: PossibleTimes, other: Other | None, counter_day: date | None = None
) -> Diagnosis:
    """Reads the value as a replay would, and says what can be done. Of one that counts already, nothing.

    `counter_day` is the day of a merchant counter; None if its key is none that is ever read.
    """
    if letter.state == "counted":
        return Diagnosis("", ())
    if letter.family == "merchant":
        return Diagnosis(letter.reason, (_of_merchant(counter_day), *_discard(letter)))
    refusal = ""
    try:
        expect_readable(letter, times, other)
    except Malformed as malformed:
        refusal = str(malformed)
    first = _corrected(letter, refusal, other) if refusal else _as_it_is(letter)
    return Diagnosis(refusal, (*first, *_discard(letter)))


def _as_it_is(letter: StoredDeadLetter) -> tuple[Advice, ...]:
    replay = f"{_REPLAY} {letter.dead_letter_id}"
    when = "When the cause is corrected. Nothing in the value itself is wrong: what is stored, or a setting, refused it"
    if letter.family == EVENT.name and letter.reason.startswith("event_id: "):
        another = Advice(
            "If it is another event than the stored one", f"{replay} --set event_id={VALUE} --reason {WHY}"
        )
        return (another, Advice(when, replay))
    return (Advice(when, replay),)


def _corrected(letter: StoredDeadLetter, refusal: str, other: Other | None) -> tuple[Advice, ...]:
    number = letter.dead_letter_id
    if refusal.startswith("key: "):
        return (_sent_again(number),)
    try:
        names = settable_members(letter.raw, letter.raw_format, letter.member, settable(letter, other))
    except Malformed:
        return (_sent_again(number),)
    when, wrong, surplus = _change(letter, refusal)
    can_be_set = names is None or all(name.partition(".")[0] in names for name in wrong)
    if not can_be_set or not (wrong or surplus):
        when, wrong, surplus = "If a member is put right that can be set", ["MEMBER"], []
    sets = [f"--set {shlex.quote(name)}={VALUE}" for name in wrong]
    unsets = [f"--unset {shlex.quote(name)}" for name in surplus]
    return (Advice(when, f"{_REPLAY} {number} {' '.join(sets + unsets)} --reason {WHY}"),)


def _change(letter: StoredDeadLetter, refusal: str) -> tuple[str, list[str], list[str]]:
    """When a change is right, the members that it sets, and those that it takes away. Neither if the refusal names none."""
    if letter.member is None:
        if unknown := _UNKNOWN.search(refusal):
            return "If it counts without that member", [], [unknown[1]]
        if total := _SUMMED_UP.match(refusal):
            return f"If the sum is the right {total[1]}", [], [total[1]]
        if whole := _WHOLE.match(refusal):
            return f"With the right {whole[1]}", *_of_whole(whole[1], _told(letter.raw))
    name = letter.member or _named(refusal)
    return f"With the right {name}", [name] if name else [], []


def _of_whole(whole: str, told: Set[str]) -> tuple[list[str], list[str]]:
    """Where an event tells a whole that is too small, perhaps twice, and a total that then is too small as well.

    A provider's own object tells it nowhere that can be set.
    """
    places = [name for name in (whole, f"usage.{whole}") if name in told]
    return places, [_TOTAL] if places and whole in _SUMMED and _TOTAL in told else []


def _told(raw: bytes) -> Set[str]:
    """The members of an event that are not null, and those of its usage as `usage.NAME`."""
    members = decode_members(raw)
    usage = members.get("usage", _NULL)
    parts = {} if usage == _NULL else decode_members(bytes(usage))
    told = {**members, **{f"usage.{name}": value for name, value in parts.items()}}
    return {name for name, value in told.items() if value != _NULL}


def _sent_again(number: int) -> Advice:
    when = "If it should count: no member of it can be set. Write it out, let its sender send it rightly, and discard this one"
    return Advice(when, f"{_PROGRAM} dead-letters export dead-letter-{number}.jsonl {number}")


def _named(refusal: str) -> str:
    return next((found[1] for pattern in _NAMES if (found := pattern.search(refusal))), "")


def _of_merchant(day: date | None) -> Advice:
    if day is None:
        when = (
            "If it should count: add it to the key that is right, delete this one in Redis, and discard the dead letter"
        )
        return Advice(when)
    when = "If it should count: correct the counter in Redis. Each aggregation of its day reads it again, and this one at once"
    return Advice(when, f"{_PROGRAM} aggregate --date {day}")


def _discard(letter: StoredDeadLetter) -> tuple[Advice, ...]:
    if letter.state == "discarded":
        return ()
    return (Advice("If it shall not count", f"{_PROGRAM} dead-letters discard {letter.dead_letter_id} --reason {WHY}"),)
