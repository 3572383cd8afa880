"""Decides that dead letters do not count. They are kept with who, when and why, and can still be replayed by their numbers."""

from collections import Counter
from dataclasses import dataclass, field

import psycopg

from usage_pipeline.drain.dead_letters import Choice, StoredDeadLetter, every_one
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import counted

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Decision:
    """Why dead letters do not count, and who says so."""

    reason: str
    discarded_by: str


@dataclass(slots=True)
class Discarded:
    """What became of the dead letters of a choice: how many of each family are discarded now, and the numbers of others."""

    by_family: Counter[str] = field(default_factory=Counter)
    were_discarded: list[int] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Chosen:
    """The open dead letters of a choice: how many of each family, the first number and the last."""

    by_family: Counter[str] = field(default_factory=Counter)
    first: int = 0
    last: int = 0

    @property
    def _numbers(self) -> str:
        return f"number {self.first}" if self.first == self.last else f"numbers {self.first} to {self.last}"

    @property
    def said(self) -> str:
        families = ", ".join(f"{number:,} of {family}" for family, number in sorted(self.by_family.items()))
        return f"{counted(self.by_family.total(), 'open dead letter')}, {self._numbers} ({families})"


def chosen(connection: psycopg.Connection, choice: Choice) -> Chosen:
    """Counts the open dead letters of a choice."""
    found = Chosen()
    for letter in every_one(connection, choice):
        if letter.state == "open":
            found.by_family[letter.family] += 1
            found.first, found.last = found.first or letter.dead_letter_id, letter.dead_letter_id
    return found


def discard(connection: psycopg.Connection, choice: Choice, decision: Decision) -> Discarded:
    """Discards the open dead letters of a choice. Each page is a transaction: after a crash, the same call goes on."""
    report = Discarded()
    page: list[StoredDeadLetter] = []
    for letter in every_one(connection, choice):
        if letter.state == "open":
            page.append(letter)
        else:
            (report.counted if letter.state == "counted" else report.were_discarded).append(letter.dead_letter_id)
        if len(page) >= _PAGE:
            _discard(connection, page, decision, report)
            page = []
    _discard(connection, page, decision, report)
    return report


def _discard(
    connection: psycopg.Connection, page: list[StoredDeadLetter], decision: Decision, report: Discarded
) -> None:
    arguments = {
        "ids": [letter.dead_letter_id for letter in page],
        "reason": decision.reason,
        "discarded_by": decision.discarded_by,
    }
    done = {number for (number,) in connection.execute(load("drain/discard_dead_letters"), arguments)}
    for letter in page:
        if letter.dead_letter_id in done:
            report.by_family[letter.family] += 1
        else:
            # Somebody replayed or discarded it just now.
            report.counted.append(letter.dead_letter_id)
