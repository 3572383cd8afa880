"""The budget of bytes: never more than there are, in turns, and nobody's slowness costs another one's turn."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from usage_pipeline.api.ingest.budget import ByteBudget, Room
from usage_pipeline.api.memory import MEDIUM_BYTES, SMALL_BYTES
from usage_pipeline.api.problems import Problem
from usage_pipeline.settings import load_settings


async def turns(count: int = 20) -> None:
    """Everything that can go on has gone on."""
    for _ in range(count):
        await asyncio.sleep(0)


class Owners:
    """Tasks that ask for bytes, and hold them until they are told to stop."""

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self.served: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def ask(self, name: str, size: int, owner: str = "") -> "asyncio.Task[None]":
        end = self._ends[name] = asyncio.Event()

        async def hold() -> None:
            async with self.budget.of(size, owner or name, seconds=60):
                self.served.append(name)
                await end.wait()

        return asyncio.create_task(hold())

    def stop(self, name: str) -> None:
        self._ends[name].set()


def test_who_comes_first_is_served_first_and_a_large_one_is_not_overtaken() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(100))
        tasks = [owners.ask("a", 60), owners.ask("large", 100), owners.ask("small", 10)]
        await turns()
        assert owners.served == ["a"]
        owners.stop("a")
        await turns()
        assert (owners.served, owners.budget.in_hand) == (["a", "large"], 100)
        owners.stop("large")
        await turns()
        assert owners.served == ["a", "large", "small"]
        owners.stop("small")
        await asyncio.gather(*tasks)
        assert owners.budget.in_hand == 0

    asyncio.run(run())


def test_an_owner_gets_no_more_than_it_leaves_free_and_waits_alone() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(60))
        tasks = [owners.ask(f"{name}{number}", 10, name) for name in "abcd" for number in range(8)]
        await turns()
        # Half of all, then half of the rest, and one for each other.
        assert owners.served == ["a0", "a1", "a2", "b0", "c0", "d0"]
        owners.stop("c0")
        await turns()
        assert owners.served[6:] == ["c1"], "the others hold more than they leave free"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert owners.budget.in_hand == 0

    asyncio.run(run())


def test_owners_take_turns() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(100))
        names = ["a0", "a1", "a2", "b0", "b1", "c0"]
        tasks = [owners.ask(name, 100, name[0]) for name in names]
        for name in ("a0", "b0", "c0", "a1", "b1", "a2"):
            await turns()
            assert owners.served[-1] == name
            owners.stop(name)
        await asyncio.gather(*tasks)
        assert owners.budget.in_hand == 0

    asyncio.run(run())


def test_smaller_ones_wait_for_no_larger_one_of_however_many_owners() -> None:
    async def run() -> None:
        settings = load_settings()
        room = Room(settings)
        async with AsyncExitStack() as stack:
            for number in range(6):
                await stack.enter_async_context(room.for_body(settings.max_gzip_size, f"{number}", seconds=1))
            await stack.enter_async_context(room.for_document(settings.max_decompressed_bytes, "0", seconds=1))
            for large in (
                room.for_body(SMALL_BYTES + 1, "other", seconds=0),
                room.for_document(MEDIUM_BYTES + 1, "other", seconds=0),
            ):
                with pytest.raises(Problem):
                    await stack.enter_async_context(large)
            for owner in ("1", "2"):
                await stack.enter_async_context(room.for_document(MEDIUM_BYTES, owner, seconds=0))
            with pytest.raises(Problem):
                await stack.enter_async_context(room.for_document(SMALL_BYTES + 1, "other", seconds=0))
            for small in (
                room.for_body(SMALL_BYTES, "other", seconds=0),
                room.for_document(SMALL_BYTES, "other", seconds=0),
            ):
                await stack.enter_async_context(small)

    asyncio.run(run())


def test_bytes_that_are_not_needed_are_given_back_at_once() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(100))
        async with owners.budget.of(100, "chunks", seconds=1) as shrink:
            task = owners.ask("other", 90)
            await turns()
            assert owners.served == []
            shrink(10)
            await turns()
            assert owners.served == ["other"]
        owners.stop("other")
        await task
        assert owners.budget.in_hand == 0

    asyncio.run(run())


def test_a_wait_ends_with_503_and_leaves_nothing_behind() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(100))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(owners.budget.of(80, "a", seconds=1))
            cancelled = owners.ask("cancelled", 50)
            await turns()
            with pytest.raises(Problem, match="as large as this server takes"):
                async with owners.budget.of(30, "late", seconds=0.01):
                    pass
            cancelled.cancel()
            await turns()
            async with owners.budget.of(20, "b", seconds=1):
                assert owners.budget.in_hand == 100
        assert owners.budget.in_hand == 0

    asyncio.run(run())


def test_who_gives_up_in_the_moment_of_a_turn_takes_it_from_nobody() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(100))
        first, second, third = owners.ask("first", 100), owners.ask("second", 100), owners.ask("third", 100)
        await turns()
        # Both in one step of the loop: the first gives its bytes back before the second has left the line.
        owners.stop("first")
        second.cancel()
        await turns()
        assert (owners.served, owners.budget.in_hand) == (["first", "third"], 100)
        owners.stop("third")
        await asyncio.gather(first, third)
        assert second.cancelled()
        assert owners.budget.in_hand == 0

    asyncio.run(run())
