"""Whatever others do, a bound sender gets the answers, and sees the usage, of a server on which it is alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.access.tokens import create_token, find_token
from usage_pipeline.api.usage.queries import position_of
from usage_pipeline.api.usage.reading import Row, bound_query, page
from usage_pipeline.api.usage.resources import MODELS, SUMMARY
from usage_pipeline.bindings import Binding, Bounds
from usage_pipeline.events.corrections.conflicts import decide, differences, list_conflicts
from usage_pipeline.events.corrections.events import Wanted, correct
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.events.ingest.model import EventWindow
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event

# The same name for all: ids that are no UUIDs meet as well.
SENDER = "loader"
BINDINGS = {
    "one": Bounds(teams=("a", "b")),
    "two": Bounds(teams=("c",), services=("s", "t")),
    "three": Bounds(users=("zoe", "omar")),
}
OWN: dict[str, dict[str, list[str]]] = {
    "one": {"team": ["a", "b"], "service": ["s", "chat"], "user_id": ["u", "v"]},
    "two": {"team": ["c"], "service": ["s", "t"], "user_id": ["u", "v"]},
    "three": {"team": ["d"], "service": ["s"], "user_id": ["zoe", "omar"]},
    # Nobody who is bound may see these.
    "free": {"team": ["e", "f"], "service": ["s", "t"], "user_id": ["u", "v"]},
}
IDS = [str(uuid5(UUID(int=1), str(number))) for number in range(3)] + ["chatcmpl-1"]
AT = (NOW - timedelta(days=1)).replace(hour=12)
DAY = day_window(AT.date(), load_settings(database_url="postgresql://x/x", redis_url="redis://x").timezone)
TABLES = (
    "analytics.usage_event_ids, analytics.usage_events, analytics.message_archives, analytics.usage_daily, "
    "analytics.usage_user_daily, analytics.usage_hourly, ops.corrections, ops.event_conflicts, ops.ingest_batches, "
    "ops.touched_windows"
)


@dataclass
class World:
    """A database, and who is bound to what in it."""

    connection: psycopg.Connection
    settings: Settings
    bindings: dict[str, Binding | None]

    def did(self, who: str, action: str, members: Sequence[dict[str, Any]]) -> Any:
        binding = self.bindings[who]
        if action in ("events", "archives"):
            kind = EVENTS if action == "events" else ARCHIVES
            report = ingest(
                self.connection,
                kind,
                as_items(*members),
                source="test",
                sender=SENDER,
                settings=self.settings,
                binding=binding,
            )
            return report.inserted, report.duplicates, report.conflicts, report.rejected
        wanted = [Wanted("test", event=as_items(one)[0]) for one in members]
        if action == "void":
            found = [
                EVENTS.parse(one.event, EventWindow.around(NOW, self.settings), SENDER) for one in wanted if one.event
            ]
            wanted = [Wanted("test", one.event_id) for one in found]
        outcomes = correct(
            self.connection,
            wanted,
            corrected_by="test",
            settings=self.settings,
            sender=SENDER,
            binding=binding,
        )
        return [(one.outcome, one.refusal) for one in outcomes]

    def seen(self, who: str) -> list[list[Row]]:
        binding = self.bindings[who]
        days = {"first": DAY.day, "until": DAY.day + timedelta(days=1)}
        found = []
        for listing in (MODELS.totals, MODELS.daily):
            arguments = {**dict.fromkeys(MODELS.filters), **days, **position_of({}, listing)}
            found.append(page(self.connection, listing, arguments, 1_000, binding)[0])
        found.append(self.connection.execute(*bound_query(SUMMARY, days, binding)).fetchall())
        return found

    def roll_up(self) -> None:
        replace_window(self.connection, DAY, settings=self.settings)

    def empty(self) -> None:
        self.connection.execute(f"truncate {TABLES} cascade")


@pytest.fixture(scope="module")
def worlds(servers: Any, databases: Any) -> Iterator[tuple[World, World]]:
    names = [databases.take() for _ in range(2)]
    worlds = []
    for name in names:
        url = servers.postgres.url(name)
        connection = psycopg.connect(url, autocommit=True)
        bindings: dict[str, Binding | None] = {"free": None}
        for who, bounds in BINDINGS.items():
            token = find_token(connection, create_token(connection, who, ["ingest"], bounds=bounds).token_prefix)
            assert token is not None
            bindings[who] = token.binding
        worlds.append(World(connection, load_settings(database_url=url, redis_url=servers.redis_url), bindings))
    yield worlds[0], worlds[1]
    for world, name in zip(worlds, names, strict=True):
        world.connection.close()
        databases.drop(name)


def members_of(who: str) -> st.SearchStrategy[dict[str, Any]]:
    own = OWN[who]
    return st.fixed_dictionaries(
        {
            "event_id": st.sampled_from(IDS),
            "team": st.sampled_from(own["team"]),
            "service": st.sampled_from(own["service"]),
            "user_id": st.sampled_from(own["user_id"]),
            "model": st.sampled_from(["gpt-4o", "gpt-4o-mini"]),
        }
    )


def steps_of(who: str) -> st.SearchStrategy[tuple[str, str, list[dict[str, Any]]]]:
    # Who is not bound may correct every event, and send texts for it: then nobody is alone.
    actions = st.sampled_from(
        ["events"] if who == "free" else ["events", "events", "events", "archives", "replace", "void"]
    )
    return st.tuples(st.just(who), actions, st.lists(members_of(who), min_size=1, max_size=4))


STEPS = st.lists(st.sampled_from(list(OWN)).flatmap(steps_of), min_size=2, max_size=10)


def as_sent(action: str, members: dict[str, Any]) -> dict[str, Any]:
    if action == "archives":
        owner = {name: members[name] for name in ("user_id", "service")}
        return archive(members["event_id"], prompt_full=members["model"], **owner)
    return event(event_time=AT.isoformat(), **members)


@hypothesis_settings(max_examples=60, database=None)
@given(steps=STEPS)
def test_answers_and_reads_are_those_of_a_server_on_which_the_sender_is_alone(
    worlds: tuple[World, World], steps: list[tuple[str, str, list[dict[str, Any]]]]
) -> None:
    together, alone = worlds
    together.empty()
    answers = [together.did(who, action, [as_sent(action, one) for one in members]) for who, action, members in steps]
    together.roll_up()
    for who in BINDINGS:
        alone.empty()
        for (sender, action, members), answer in zip(steps, answers, strict=True):
            if sender == who:
                assert alone.did(who, action, [as_sent(action, one) for one in members]) == answer
        alone.roll_up()
        assert together.seen(who) == alone.seen(who)


def test_conflicts_of_an_event_that_is_kept_apart_are_listed_accepted_and_dismissed(
    worlds: tuple[World, World],
) -> None:
    world, _ = worlds
    world.empty()
    for who, team in (("one", "a"), ("two", "c")):
        for model in ("gpt-4o", "gpt-4o-mini", "o3"):
            world.did(
                who,
                "events",
                [event(event_id="chatcmpl-1", event_time=AT.isoformat(), team=team, service="s", model=model)],
            )
    conflicts = list_conflicts(world.connection)
    assert [conflict.kind for conflict in conflicts] == ["events"] * 4
    told = differences(world.connection, conflicts, world.settings)
    assert [(told[each.event_conflict_id].differs, told[each.event_conflict_id].external_id) for each in conflicts] == [
        (["model"], "chatcmpl-1")
    ] * 4
    common = {"reason": "test", "decided_by": "test", "settings": world.settings}
    numbers = [each.event_conflict_id for each in conflicts]
    accepted = decide(world.connection, numbers[2:3], "accepted", **common)
    dismissed = decide(world.connection, [numbers[0], numbers[3]], "dismissed", **common)
    assert [each.outcome for each in (*accepted, *dismissed)] == ["accepted", "dismissed", "dismissed"]
    stored = "select team, model, external_id from analytics.usage_events order by team"
    assert world.connection.execute(stored).fetchall() == [
        ("a", "gpt-4o", "chatcmpl-1"),
        ("c", "gpt-4o-mini", "chatcmpl-1"),
    ]
