"""What is on its way to Redis: sends, those without an answer, and records that wait. No I/O but that of a spool file."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from usage_recorder.commands import Family, Record
from usage_recorder.delivery.sends import (
    Answer,
    NumberTakenError,
    Send,
    correcting_send,
    is_of_a_slot,
    kind_of,
    leaves_doubt,
    new_send,
    renumbered,
)
from usage_recorder.delivery.spool import Spool
from usage_recorder.delivery.sums import Sums
from usage_recorder.failures import Reason, RecordFailures
from usage_recorder.script import NUMBERS_TTL_SECONDS

MOST_KEPT = 100_000
MOST_KEPT_BYTES = 64 * 1024 * 1024
# Redis forgets the numbers of a recorder after NUMBERS_TTL_SECONDS. A send that is older than this is not repeated.
OLDEST_REPEATED_MS = (NUMBERS_TTL_SECONDS - 86_400) * 1000
# So often a send that nobody doubts tells the spool file that it is young.
_REJUVENATED_MS = 3_600_000
# Sends without an answer are not summed, and each has a lane. With so many, others wait until there are fewer.
MOST_DOUBTFUL = 10_000
# What signal handlers may record during one call.
MOST_LATE = 10_000
_MOST_ROUNDS = 3
_INTERRUPTED = InterruptedError("the answer was not waited for")
_log = logging.getLogger(__name__)


def elapsed_seconds() -> float:
    """A clock that never leaps, and goes on while the machine sleeps where the system has such a clock."""
    return time.clock_gettime(_CLOCK_OF_THE_MACHINE) if _CLOCK_OF_THE_MACHINE is not None else time.monotonic()


_CLOCK_OF_THE_MACHINE: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Outbox:
    """For any thread. A lane has one send at a time: it is free again when Redis has confirmed or refused that."""

    def __init__(
        self,
        failures: RecordFailures,
        *,
        is_cluster: bool,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = elapsed_seconds,
        most_kept: int = MOST_KEPT,
        most_kept_bytes: int = MOST_KEPT_BYTES,
        spool: Spool | None = None,
    ) -> None:
        self._failures = failures
        self._is_cluster = is_cluster
        self._clock = clock
        self._elapsed = elapsed
        self._limits = most_kept, most_kept_bytes
        self._spool: Spool | None = None
        self.wake: Callable[[], None] = _nobody
        self._begin_anew()
        if spool is not None:
            sends, records = spool.take_over()
            for send in sends:
                age_ms = max(self._now_ms() - send.began_ms, 0)
                send.in_doubt_since = self._elapsed() - age_ms / 1000
                self._doubtful.append(send)
            for record in records:
                self._add(record)
            self._spool = spool
            spool.begin(self._doubtful, self._sums.entries())

    def _begin_anew(self) -> None:
        # Also in a forked child: a lock may be held there by a thread that does not exist. A signal handler and `on_failure`
        # may read while this thread holds it; what they record waits in `_late`.
        self._inside: dict[int, bool] = {}
        self._late: deque[Record | tuple[str, str]] = deque()
        self._late_lost: Counter[Family] = Counter()
        self._lock = threading.RLock()
        self._is_empty = threading.Condition(self._lock)
        self._take_new_id()
        self._doubtful: deque[Send] = deque()
        self._under_way: list[Send] = []
        self._sums = Sums(*self._limits)
        self._is_away = False
        self._is_closed = False

    def _take_new_id(self) -> None:
        self.recorder_id = secrets.token_hex(12)
        self._numbers: list[int] = []
        self._free: list[int] = []

    def forget_parent(self) -> None:
        """In a forked child: what the parent has on its way is the parent's, and so are its numbers and its spool file."""
        self._begin_anew()
        if self._spool is not None:
            _log.warning("recorder: a forked process does not share the spool file; make the recorder after the fork")
            self._spool.leave_to_parent()
            self._spool = None

    @contextmanager
    def call(self) -> Iterator[bool]:
        """Around each call. False inside of another call of this thread: then lock nothing, and ask no server.

        A signal handler, or `on_failure`, runs in the middle of a call. What that call holds, such as the pool of redis-py, is
        free only after the handler.
        """
        me = threading.get_ident()
        if me in self._inside:
            yield False
            return
        try:
            self._inside[me] = False
            yield True
        finally:
            # An `on_failure` may record for each failure, also here: then the courier has the rest.
            for _ in range(_MOST_ROUNDS):
                if not self._inside.pop(me, False):
                    break
                self._inside[me] = False
                with self._lock:
                    self._take_late()
                self.wake()
            self._inside.pop(me, None)

    def later(self, family: Family, record: Record | str) -> bool:
        """Inside of another call: keeps a record, or what is wrong with it, for the end of that. Whether it may be kept."""
        self._inside[threading.get_ident()] = True
        if isinstance(record, str):
            self._late.append((family, record))
            return False
        if len(self._late) >= MOST_LATE:
            self._late_lost[family] += record.records
            return False
        self._late.append(record)
        return not self._is_closed

    @property
    def kept(self) -> int:
        """Records that wait to be sent, or to be sent again."""
        with self._held():
            return self._kept()

    @property
    def has_work(self) -> bool:
        """Whether a courier is needed. Without the lock: each record asks."""
        return bool(self._doubtful or self._sums or self._late)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def begin(self, record: Record) -> Send | bool:
        """The send of a record, to be sent now. While Redis is away: whether the record is kept."""
        with self._held():
            if self._is_away or self._is_closed or len(self._doubtful) >= MOST_DOUBTFUL:
                return self._keep(record)
            numbered = self._take_lane()
        send = self._new_send(record, numbered)
        self._is_noted(send)
        return send

    def take(self, send: Send, answers: Sequence[Answer]) -> bool:
        """What the answers to a send mean: True if the record is written or kept, False if Redis refused it for good."""
        why = send.take(answers)
        with self._held():
            return self._settle(send) if why is None else self._doubt(send, why)

    def doubt(self, send: Send, why: BaseException) -> bool:
        """Keeps a send of which nobody knows whether it was done, to be repeated. False if the outbox is closed."""
        with self._held():
            return self._doubt(send, why)

    def portion(self, most: int) -> list[Send]:
        """Up to so many sends, to be sent now: doubtful ones first, then what was never sent. End it with `end_portion`."""
        with self._held():
            self._take_late()
            if self._spool is not None:
                self._spool.look()
            sends: list[Send] = []
            oldest = self._elapsed() - OLDEST_REPEATED_MS / 1000
            while self._doubtful and len(sends) < most:
                send = self._doubtful.popleft()
                if send.in_doubt_since is not None and send.in_doubt_since < oldest:
                    self._lose(send.family, "too old", send.records)
                    self._free_lane(send)
                else:
                    sends.append(send)
            # While Redis is away, what was never sent stays where it can still be summed.
            if not (sends and self._is_away):
                sends += self._fresh(most - len(sends))
            self._under_way = sends.copy()
            self._tell_if_empty()
        return sends

    def end_portion(self, sends: Iterable[Send], answers: Iterable[Sequence[Answer]] | None) -> bool:
        """Takes the answers to a portion, None if nothing is known of any. Returns whether Redis took all of it."""
        took_all = is_back = answers is not None
        with self._held():
            self._under_way = []
            for send, some in zip(sends, answers) if answers is not None else ((send, ()) for send in sends):
                why = _INTERRUPTED if answers is None else send.take(some)
                if why is None:
                    self._settle(send)
                else:
                    self._doubt(send, why)
                    took_all = False
                    is_back = is_back and (is_of_a_slot(why) or isinstance(why, NumberTakenError))
            if is_back and self._is_away:
                self._is_away = False
                _log.warning("recorder: Redis takes records again; %d more wait and are sent now", self._kept())
            self._tell_if_empty()
        return took_all

    def has_left(self) -> bool:
        with self._held():
            return self._has_left()

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Whether nothing is left within the time."""
        with self._held():
            return self._is_empty.wait_for(lambda: not self._has_left(), timeout_seconds)

    def close(self) -> None:
        """No more is taken. What is left is lost and counted, unless a spool file has it."""
        with self._held():
            if self._is_closed:
                return
            self._take_late()
            self._is_closed = True
            if self._spool is not None:
                self._leave_to_file(self._spool)
                return
            for send in self._doubtful:
                self._lose(send.family, "unsent", send.records)
            self._doubtful.clear()
            for entry_id, record in list(self._sums.entries()):
                self._lose(record.family, "unsent", record.records)
                self._sums.remove(entry_id)

    def _fresh(self, most: int) -> list[Send]:
        """Sends of what was never sent, the oldest first.

        What the spool file has as waiting is not sent before the file has it as sent: it would be sent once more by the next
        recorder. Where the file takes nothing now, that waits, and the rest goes on.
        """
        sends: dict[int, Send] = {}
        takes_nothing = False
        for entry_id, record in self._sums.entries():
            if len(sends) >= most:
                break
            is_in_file = self._spool is not None and self._spool.has_kept(entry_id)
            if is_in_file and takes_nothing:
                continue
            send = self._new_send(record, self._take_lane())
            if self._is_noted(send, entry_id) or not is_in_file:
                sends[entry_id] = send
            else:
                takes_nothing = True
                self._put_back_lane(send)
        for entry_id in sends:
            self._sums.remove(entry_id)
        return list(sends.values())

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self.call(), self._lock:
            yield

    def _take_late(self) -> None:
        for _ in range(len(self._late)):
            late = self._late.popleft()
            if isinstance(late, Record):
                self._keep(late)
            else:
                what, detail = late
                self._failures.count(what, "wrong argument", detail)
        for family, records in list(self._late_lost.items()):
            self._late_lost[family] -= records
            if records:
                self._lose(family, "no room", records)

    def _leave_to_file(self, spool: Spool) -> None:
        missing = spool.write_last([*self._under_way, *self._doubtful], self._sums.entries())
        for send in self._under_way:
            if not spool.has_send(send):
                # Its answer comes, or it is lost then.
                missing[send.family] -= send.records
        for family, records in (+missing).items():
            self._lose(family, "unsent", records, "the spool file did not take it")
        if (left := self._kept() - sum(missing.values())) > 0:
            _log.warning("recorder: %d records wait in the spool file for the next recorder", left)
        spool.close()

    def _new_send(self, record: Record, numbered: tuple[str, int, int]) -> Send:
        return new_send(record.commands(), *numbered, began_ms=self._now_ms(), is_cluster=self._is_cluster)

    def _is_noted(self, send: Send, entry_id: int | None = None) -> bool:
        if self._spool is None or self._spool.note_send(send, entry_id):
            return True
        if entry_id is None or not self._spool.has_kept(entry_id):
            self._failures.count(send.family, "bookkeeping", "the spool file does not take it", send.records)
        return False

    def _doubt(self, send: Send, why: BaseException) -> bool:
        if self._is_closed:
            # With a spool file, the next recorder takes it from there.
            is_left = self._spool is not None and self._spool.has_send(send)
            if not is_left:
                self._lose(send.family, "unsent", send.records)
            return is_left
        if isinstance(why, NumberTakenError):
            self._number_anew(send)
            return True
        if send.in_doubt_since is None:
            self._note_doubt(send, why)
        if not self._is_away and not (isinstance(why, Exception) and is_of_a_slot(why)):
            self._is_away = True
            _log.warning("recorder: Redis does not take records (%s); they are kept", kind_of(why))
        self._doubtful.append(send)
        return True

    def _note_doubt(self, send: Send, why: BaseException) -> None:
        if leaves_doubt(why):
            send.in_doubt_since = self._elapsed()
        elif (
            self._spool is not None and self._now_ms() - send.began_ms > _REJUVENATED_MS and self._spool.has_send(send)
        ):
            # The next process takes everything in the file for doubtful since then.
            send.began_ms = self._now_ms()
            self._spool.note_send(send)

    def _number_anew(self, send: Send) -> None:
        if send.recorder_id == self.recorder_id:
            self._take_new_id()
            _log.warning(
                "recorder: a copy of this process (such as a restored snapshot) records under the same id, so this one takes a "
                "new one. Records that waited when the copy was made may count twice"
            )
        anew = renumbered(send, *self._take_lane(), began_ms=self._now_ms())
        is_in_file = self._spool is not None and self._spool.has_send(send)
        if self._spool is None or self._spool.note_send(anew, instead_of=send) or not is_in_file:
            self._doubtful.append(anew)
        else:
            # The next recorder would send both. So this one is asked again, until the file takes a line.
            self._put_back_lane(anew)
            self._doubtful.append(send)

    def _settle(self, send: Send) -> bool:
        is_refused, problem = send.is_refused(), next(iter(send.failed.values()), "")
        if is_refused and send.records:
            self._lose(send.family, "refused", send.records, f"Redis refused a write: {_kind(problem)}")
        elif send.failed:
            detail = f"the counter is written, its announcement or odometer is not: {_kind(problem)}"
            self._failures.count(send.family, "bookkeeping", detail)
        if send.was_passed:
            detail = "its line in the spool file was old: it is counted, unless a copy of the earlier process took its number"
            self._failures.count(send.family, "bookkeeping", detail, send.records)
        if send.correction():
            correcting = correcting_send(send, *self._take_lane(), began_ms=self._now_ms(), is_cluster=self._is_cluster)
            self._is_noted(correcting)
            self._doubtful.append(correcting)
        self._free_lane(send)
        return not is_refused

    def _keep(self, record: Record) -> bool:
        if self._is_closed:
            self._lose(record.family, "unsent", record.records, "the recorder is closed")
            return False
        return self._add(record)

    def _add(self, record: Record) -> bool:
        entry_id = self._sums.add(record)
        if entry_id is None:
            self._lose(record.family, "no room", record.records)
            return False
        if self._spool is not None and not self._spool.note_kept(entry_id, self._sums[entry_id]):
            self._failures.count(record.family, "bookkeeping", "the spool file does not take it", record.records)
        return True

    def _lose(self, family: Family, reason: Reason, records: int, detail: str = "") -> None:
        self._failures.count(family, reason, detail or reason, records)

    def _take_lane(self) -> tuple[str, int, int]:
        # The lane that was freed last: so a recorder has as many lanes as it ever had calls at once, and no more.
        if not self._free:
            self._numbers.append(0)
            self._free.append(len(self._numbers) - 1)
        lane = self._free.pop()
        self._numbers[lane] += 1
        return self.recorder_id, lane, self._numbers[lane]

    def _put_back_lane(self, send: Send) -> None:
        if send.recorder_id == self.recorder_id:
            self._free.append(send.lane)

    def _free_lane(self, send: Send) -> None:
        # A send that stays in the file is sent again by the next recorder. It has to find its number, and no later one.
        if self._spool is None or self._spool.note_settled(send):
            self._put_back_lane(send)

    def _has_left(self) -> bool:
        return bool(self._doubtful or self._sums or self._under_way or self._late)

    def _kept(self) -> int:
        unanswered = sum(send.records for send in (*self._doubtful, *self._under_way))
        return unanswered + self._sums.records + len(self._late)

    def _tell_if_empty(self) -> None:
        if not self._has_left():
            self._is_empty.notify_all()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _nobody() -> None:
    """Who is called when a record came late: nobody yet."""


def _kind(error: str) -> str:
    """The kind of an error: redis-py's class, or the first word of Redis in capitals. The rest may hold names of keys."""
    words = (word.strip("-:") for word in error.split())
    return next((word for word in words if word.isupper() or word.endswith("Error")), "error")
