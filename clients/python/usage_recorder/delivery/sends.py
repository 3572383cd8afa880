"""A numbered send of one record, and what the answers of Redis to it mean. Pure; no I/O."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Union

import redis
from redis import exceptions
from redis.crc import key_slot

from usage_recorder import keys
from usage_recorder.commands import Command, Commands, Family
from usage_recorder.script import OF_ANOTHER, PASSED

Word = Union[str, bytes, int]
# An answer of Redis to one script, or the error in its place.
Answer = Any

UNREACHABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    exceptions.InvalidResponse,
    exceptions.RedisClusterException,
    OSError,
)
# Redis has written nothing, and will when it has memory again, is a primary again, has loaded its file.
_MENDED_BY_TIME = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
# redis-py has no class for some, and sees none where a script's error begins with its place.
_MENDED_BY_TIME_TEXT = re.compile(r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b")


class NumberTakenError(Exception):
    """A copy of this process used the number of a send, so nothing of the send is done."""


class NothingSentError(redis.ConnectionError):
    """There was no connection, and none that was lost: Redis got nothing of a send."""


class Part(NamedTuple):
    """What is done in one step: everything, or on a Redis Cluster what concerns one slot.

    `words` are what follows the script. `places` are the places of its commands in the record, from 1; 0 is the odometer.
    """

    route: str
    words: tuple[Word, ...]
    places: tuple[int, ...]


@dataclass
class Send:
    """One record under a lane and a number of a recorder. `parts` are those that Redis has not yet confirmed or refused."""

    recorder_id: str
    lane: int
    number: int
    family: Family
    records: int
    writes: int
    began_ms: int
    parts: list[Part]
    # On a Redis Cluster the odometer is in another slot than the counter: what to take out of it for each write that failed.
    odometer: str | None = None
    counted: tuple[tuple[int, str, int], ...] = ()
    failed: dict[int, str] = field(default_factory=dict)
    # It was read from the spool file of an earlier process, which may have lost the lines that followed.
    is_inherited: bool = False
    # Since when Redis may have done it without an answer, by the clock of `elapsed_seconds`.
    in_doubt_since: float | None = None
    was_passed: bool = False

    @property
    def name(self) -> tuple[str, int, int]:
        return self.recorder_id, self.lane, self.number

    def take(self, answers: Sequence[Answer]) -> Exception | None:
        """Notes the answers to all `parts`. Parts without an answer, or with an error that time mends, stay.

        Returns why the first of those stays; one that concerns a single slot comes after the others, and NumberTakenError last.
        """
        left: list[Part] = []
        why: Exception | None = None
        for part, answer in zip(self.parts, answers):
            if isinstance(answer, Exception):
                if is_mended_by_time(answer):
                    left.append(part)
                    why = answer if why is None or isinstance(why, NumberTakenError) or is_of_a_slot(why) else why
                else:
                    self.failed.update(dict.fromkeys(part.places, type(answer).__name__))
            elif isinstance(answer, (list, tuple)):
                self.failed.update(
                    (part.places[int(place) - 1], _text(error)) for place, error in zip(answer[::2], answer[1::2])
                )
            elif answer == PASSED and self.is_inherited:
                self.was_passed = True
            elif answer in (OF_ANOTHER, PASSED):
                left.append(part)
                why = why or NumberTakenError()
        self.parts = left
        return why

    def is_refused(self) -> bool:
        return any(1 <= place <= self.writes for place in self.failed)

    def correction(self) -> list[Command]:
        """Commands that take refused writes out of the odometer again, where it is not in the step of the counter."""
        if self.odometer is None or not self.is_refused() or 0 in self.failed:
            return []
        refused = [(name, amount) for place, name, amount in self.counted if place in self.failed]
        undo: list[Command] = [("HINCRBY", self.odometer, name, -amount) for name, amount in refused if amount]
        if len(refused) == len(self.counted):
            undo.append(("HINCRBY", self.odometer, "records", -self.records))
        return undo


def new_send(commands: Commands, recorder_id: str, lane: int, number: int, *, began_ms: int, is_cluster: bool) -> Send:
    """The send of a record under this lane and number."""
    send = Send(recorder_id, lane, number, commands.family, commands.records, commands.writes, began_ms, [])
    if not is_cluster:
        places = (*range(1, len(commands.commands) + 1), 0)
        numbered = lane, _number_word(number)
        send.parts = [_part(keys.numbers(recorder_id), commands.with_odometer(), places, numbered)]
        return send
    # Its step does not know which writes failed: it counts all (place 0 never fails), and `correction` takes back.
    odometer = commands.odometer([(0, name, amount) for _, name, amount in commands.counted])
    send.odometer, send.counted = str(odometer[1]), tuple(commands.counted)
    send.parts = _parts_by_slot(recorder_id, [*enumerate(commands.commands, 1), (0, odometer)], lane, number)
    return send


def renumbered(send: Send, recorder_id: str, lane: int, number: int, *, began_ms: int) -> Send:
    """The same, as far as it is not done, under another lane and number of this recorder."""
    word = _number_word(number)
    parts = []
    for part in send.parts:
        route = f"{part.route.rpartition(':')[0]}:{recorder_id}"
        keys_end = 1 + int(part.words[0])
        words = (part.words[0], route, *part.words[2:keys_end], lane, word, *part.words[keys_end + 2 :])
        parts.append(part._replace(route=route, words=words))
    anew = replace(send, recorder_id=recorder_id, lane=lane, number=number, began_ms=began_ms, parts=parts)
    anew.is_inherited, anew.in_doubt_since = False, None
    return anew


def correcting_send(wrong: Send, recorder_id: str, lane: int, number: int, *, began_ms: int, is_cluster: bool) -> Send:
    """The send that takes out of the odometer what `wrong` counted and did not write. It counts as no record."""
    send = Send(recorder_id, lane, number, wrong.family, 0, 0, began_ms, [])
    send.parts = _parts_by_slot(recorder_id, [(0, command) for command in wrong.correction()], lane, number)
    return send


def is_mended_by_time(error: Exception) -> bool:
    """Whether the same send may be done later: there was no answer, or one that says "not now"."""
    return isinstance(error, (*UNREACHABLE, *_MENDED_BY_TIME)) or bool(_MENDED_BY_TIME_TEXT.search(str(error)))


def leaves_doubt(error: BaseException) -> bool:
    """Whether Redis may have done a send that ended so. An answer that says "not now" is none: then nothing is written."""
    return not isinstance(error, (redis.ResponseError, *_MENDED_BY_TIME, NothingSentError, NumberTakenError))


def is_of_a_slot(error: Exception) -> bool:
    """Whether other slots may do: this one is being moved."""
    return isinstance(error, exceptions.TryAgainError) or "TRYAGAIN" in str(error)


def kind_of(error: BaseException) -> str:
    """What an error is, without its text, which may hold an address: the word of Redis, or the class."""
    word = _MENDED_BY_TIME_TEXT.search(str(error)) if isinstance(error, redis.ResponseError) else None
    return word[0] if word else type(error).__name__


def _parts_by_slot(recorder_id: str, commands: Sequence[tuple[int, Command]], lane: int, number: int) -> list[Part]:
    """One part for each slot: two in a slot would share the hash of numbers, and the second would pass for done."""
    by_slot: dict[int, list[tuple[int, Command]]] = {}
    numbered = lane, _number_word(number)
    for place, command in commands:
        by_slot.setdefault(_slot(command[1]), []).append((place, command))
    return [
        _part(
            keys.numbers(recorder_id, slot),
            [command for _, command in some],
            tuple(place for place, _ in some),
            numbered,
        )
        for slot, some in by_slot.items()
    ]


def _number_word(number: int) -> str:
    """With a fraction of its own."""
    # A machine and its restored snapshot may draw the same random bytes, but hardly at the same nanosecond.
    drawn = int.from_bytes(os.urandom(5), "big") ^ time.perf_counter_ns()
    return f"{number}.{drawn % 10**12:012}"


def _part(route: str, commands: Sequence[Command], places: tuple[int, ...], numbered: tuple[int, str]) -> Part:
    names: dict[Word, int] = {route: 1}
    words: list[Word] = [*numbered]
    for name, key, *rest in commands:
        place = names.setdefault(key, len(names) + 1)
        words += (len(rest) + 2, name, place, *rest)
    return Part(route, (len(names), *names, *words), places)


def _slot(key: Word) -> int:
    return int(key_slot(key if isinstance(key, bytes) else str(key).encode()))


def _text(error: Any) -> str:
    return error.decode(errors="replace") if isinstance(error, bytes) else str(error)
