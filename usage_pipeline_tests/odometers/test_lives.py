"""Odometers against a model of Redis whose files are saved, put back, copied and lost at random."""

from collections.abc import Callable
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.odometers.lives import Odometer, Reading, change, seen


class World:
    """A Redis with one odometer, the files that it may start with, and whoever looks at it. `written` is the truth."""

    def __init__(self) -> None:
        self.here: Reading | None = None
        self.files: list[Reading | None] = [None]
        self.known = Odometer()
        self.written = 0
        self.names = count()

    def name(self, base: int) -> str:
        return f"{base}-{next(self.names):012x}"

    def write(self, amount: int) -> None:
        here = self.here or Reading(0)
        self.here = Reading(here.count + amount, here.mark)
        self.written += amount

    def look(self) -> None:
        after = seen(self.known, self.here, self.name)
        if after.life is not None and self.here is not None:
            # As look.py does: the name goes into Redis.
            self.here = Reading(self.here.count, after.life)
            after = Odometer(after.counted, after.life, after.life, after.lives)
        self.known = after

    def save(self) -> None:
        self.look()
        self.files.append(self.here)

    def start_from(self, number: int, amount: int) -> None:
        """A restart from some file, or empty. Before somebody looks, records come; but not to an earlier state of a life."""
        self.look()
        self.here = self.files[number % len(self.files)]
        if self.here is None:
            self.write(amount)
        self.look()
        self.write(amount)


STEPS: list[st.SearchStrategy[Callable[[World], None]]] = [
    st.integers(0, 9).map(lambda amount: lambda world: world.write(amount)),
    st.just(World.look),
    st.just(World.save),
    st.tuples(st.integers(0, 20), st.integers(0, 9)).map(lambda some: lambda world: world.start_from(*some)),
]


@given(st.lists(st.one_of(STEPS), max_size=60))
def test_whatever_redis_starts_with_all_that_was_recorded_is_known(steps: list[Callable[[World], None]]) -> None:
    world = World()
    for step in steps:
        step(world)
        if step is not World.look:
            world.look()
        assert world.known.recorded == world.written
        assert world.known.forgotten == world.written - (world.here.count if world.here else 0)


def test_how_a_life_changed_is_told() -> None:
    world = World()
    world.write(5)
    world.save()
    first = world.known
    world.write(5)
    world.look()
    assert change(first, world.known) is None
    told = []
    for number in (0, 1, 0):
        before = world.known
        world.here = world.files[number]
        world.look()
        told.append(change(before, world.known))
    assert told == ["emptied", "rewound", "emptied"]
    known, world.here = world.known, Reading(10, first.life)
    world.look()
    assert change(known, world.known) == "returned"
    assert change(Odometer(), first) is None


def test_a_life_that_postgresql_forgot_itself_counts_from_its_base() -> None:
    known = seen(Odometer(), Reading(50, "40-00000000000a"), str)
    assert known.lives["40-00000000000a"].base == 40
    assert (known.recorded, known.forgotten) == (50, 0)
