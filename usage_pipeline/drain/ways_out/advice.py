"""What can be done with one dead letter: commands to paste, and when each is right. It only reads."""

import re
import shlex
from dataclasses import dataclass
from datetime import date

from usage_pipeline.drain.corrections import settable_members
from usage_pipeline.drain.dead_letters import Other, StoredDeadLetter, expect_readable, settable
from usage_pipeline.drain.event_queue import EVENT
from usage_pipeline.values import Malformed, PossibleTimes

# Placeholders in what is to be pasted. The commands refuse them, so that none is stored by mistake.
VALUE, WHY = "VALUE", "WHY"
_PROGRAM = "usage-pipeline"
_REPLAY = "usage-pipeline dead-letters replay"
# Reasons of ours begin with the member; those of JSON decoders name it somewhere.
_AT_ITS_BEGINNING = re.compile(r"([A-Za-z_][\w.]*)(?:, \w+)*: expected ")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"contains unknown field `([^`]+)`")
_AT_A_PATH = re.compile(r" - at `\$\.([\w.]+)")
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
    unknown = _UNKNOWN.search(refusal)
    if unknown and letter.member is None:
        change, what = f"--unset {shlex.quote(unknown[1])}", "If it counts without that member"
    else:
        name = letter.member or _named(refusal)
        if not name or (names is not None and name.partition(".")[0] not in names):
            return (
                Advice(
                    "If a member is put right that can be set",
                    f"{_REPLAY} {number} --set MEMBER={VALUE} --reason {WHY}",
                ),
            )
        change, what = f"--set {shlex.quote(name)}={VALUE}", f"With the right {name}"
    return (Advice(what, f"{_REPLAY} {number} {change} --reason {WHY}"),)


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
