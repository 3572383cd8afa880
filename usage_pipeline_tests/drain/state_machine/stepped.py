"""One drain that stands still at its steps, in a thread of its own: the test decides how far it goes, and where it fails.

Nothing here knows the protocol. Where a drain waits for a lock of another one in PostgreSQL, it counts as waiting, and the
test goes on with something else.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

import psycopg

from usage_pipeline_tests.drain.rig import Life

# Far beyond any step; whoever reaches it has found a drain that hangs.
_LONGEST_STEP_SECONDS = 20
_LOOK_FOR_LOCKS_SECONDS = 0.002

_Status = psycopg.pq.TransactionStatus

# How many steps a drain may take, and the beginnings of the labels that it stops at before that.
Stretch = tuple[int, tuple[str, ...]]
ONE_STEP: Stretch = (1, ())
TO_ITS_END: Stretch = (1_000_000, ())


class SteppedDrain:
    """One drain of one family by one life. Every method is for the test's own thread."""

    def __init__(self, life: Life, family: str, waits_for_a_lock: Callable[["SteppedDrain"], bool]) -> None:
        self.life, self.family = life, family
        self.backend_pid = life.postgres.info.backend_pid
        self.label = "start"
        self.steps = 0
        self.is_waiting = False
        self.has_ended = False
        self.error: BaseException | None = None
        self.may_fail_with: tuple[type[BaseException], ...] = ()
        self._waits_for_a_lock = waits_for_a_lock
        self._stretch: Stretch = ONE_STEP
        self._orders: SimpleQueue[Stretch | BaseException] = SimpleQueue()
        self._arrivals: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"drain-{family}", daemon=True)
        life.at_step = self._at_step
        self._thread.start()

    @property
    def is_in_transaction(self) -> bool:
        """Whether it may hold locks in PostgreSQL."""
        return self.life.postgres.pgconn.transaction_status in (_Status.ACTIVE, _Status.INTRANS, _Status.INERROR)

    def go(self, stretch: Stretch) -> None:
        """Lets it go on, until it stands still again, has ended, or waits for a lock of another drain."""
        assert not self.has_ended
        assert not self.is_waiting
        self._orders.put(stretch)
        self.settle()

    def fail(self, error: BaseException) -> None:
        """The step at which it stands raises `error`; the drain then runs to its end."""
        self._orders.put(error)
        self._stretch = TO_ITS_END
        self.settle()

    def settle(self) -> None:
        """Waits until it stands still, has ended, or waits for a lock of another drain."""
        deadline = time.monotonic() + _LONGEST_STEP_SECONDS
        patience = 0.0 if self.is_waiting else _LOOK_FOR_LOCKS_SECONDS
        while True:
            try:
                self._arrivals.get(block=patience > 0, timeout=patience)
            except Empty:
                if self._waits_for_a_lock(self):
                    # It stops at the very next step, so that what follows does not depend on who is faster.
                    self._stretch, self.is_waiting = ONE_STEP, True
                    return
                patience = _LOOK_FOR_LOCKS_SECONDS
                assert time.monotonic() < deadline, f"{self.family}: hangs after {self.label}"
            else:
                self.is_waiting = False
                if self.has_ended:
                    self._thread.join()
                return

    # in the thread

    def _run(self) -> None:
        try:
            self._stand_still()
            self.life.drain(self.family)
        except BaseException as error:
            self.error = error
        self.has_ended = True
        self._arrivals.put(None)

    def _at_step(self, number: int, label: str) -> None:
        self.label = label
        self.steps += 1
        left, labels = self._stretch
        self._stretch = (left - 1, labels)
        if left <= 1 or label.startswith(labels):
            self._arrivals.put(None)
            self._stand_still()

    def _stand_still(self) -> None:
        order = self._orders.get(timeout=_LONGEST_STEP_SECONDS * 10)
        if isinstance(order, BaseException):
            raise order
        self._stretch = order


class InlineExecutor:
    """In place of ThreadPoolExecutor: work is done when it is submitted, so that a schedule can be run again exactly.

    What really overlaps within one drain has tests of its own.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "InlineExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


def settle_waiting(drains: Sequence[SteppedDrain]) -> None:
    """Lets those go on that waited for a lock which is free now."""
    for drain in drains:
        if drain.is_waiting:
            drain.settle()
