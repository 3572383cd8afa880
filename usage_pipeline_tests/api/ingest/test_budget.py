"""The budget of bytes: never more than there are, in the order of coming, and nobody's slowness costs another one's turn."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from usage_pipeline.api.ingest.budget import ByteBudget
from usage_pipeline.api.problems import Problem


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


def test_one_owner_has_its_part_and_waits_alone() -> None:
    async def run() -> None:
        owners = Owners(ByteBudget(100, 50))
        tasks = [owners.ask(f"slow{number}", 25, "one") for number in range(3)] + [owners.ask("other", 50)]
        await turns()
        assert owners.served == ["slow0", "slow1", "other"]
        owners.stop("slow0")
        await turns()
        assert owners.served[-1] == "slow2"
        for name in ("slow1", "slow2", "other"):
            owners.stop(name)
        await asyncio.gather(*tasks)
        assert owners.budget.in_hand == 0

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
