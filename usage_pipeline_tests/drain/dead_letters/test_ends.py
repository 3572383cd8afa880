"""Alert, check, metric and reconciliation about dead letters end when each was replayed or discarded, and not before."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from usage_recorder.recorder import Recorder

from usage_pipeline.alerting import reading
from usage_pipeline.alerting.evaluation import evaluate_pipeline
from usage_pipeline.alerting.facts import OrchestrationFacts
from usage_pipeline.checks import open_matters
from usage_pipeline.reconciliation.balance import DayBalance
from usage_pipeline.reconciliation.comparison import reconcile
from usage_pipeline_tests.drain.dead_letters.rig import MERCHANTS, World, key, landed, merchant
from usage_pipeline_tests.rigs.alerts import Webhook, told_at
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.events import event


@pytest.fixture
def recorder(redis_url: str) -> Iterator[Recorder]:
    recorder = Recorder.connect(redis_url)
    yield recorder
    recorder.close()


def open_alerts(world: World, hook: Webhook) -> list[str]:
    evaluate_pipeline(told_at(hook, world.settings), OrchestrationFacts(), {})
    query = "select dedupe_key from ops.alerts where cleared_at is null and rule = 'dead-letters' order by 1"
    return [row[0] for row in world.query(query)]


def faults(world: World, family: str) -> list[str]:
    return open_matters.dead_letter_faults(world.postgres, [family])


def test_each_must_be_replayed_or_discarded(world: World, hook: Webhook) -> None:
    landed(event(team=...), event(team=...), event(team=...))(world)
    assert open_alerts(world, hook) == ["dead-letters:usage_event"]
    world.run("replay", "1", "--set", "team=search", "--reason", "r")
    world.run("discard", "2", "--reason", "r")
    assert open_alerts(world, hook) == ["dead-letters:usage_event"]
    assert [fault.split(",")[0] for fault in faults(world, "usage_event")] == ["#3"]
    assert open_matters.dead_letter_counts(world.postgres, ["usage_event"]) == {"open": 1, "discarded": 1}
    world.run("discard", "3", "--reason", "r")
    assert open_alerts(world, hook) == []
    assert faults(world, "usage_event") == []
    assert open_matters.dead_letter_counts(world.postgres, ["usage_event"]) == {"open": 0, "discarded": 2}
    assert hook.titles[-1].startswith("Cleared: Dead letters of usage_event")


def test_very_many_of_one_family_do_not_end_the_alert_of_another(
    world: World, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_COUNTED", 5)
    for number in range(6):
        world.redis.hset(f"apikey:{number}:metrics", "total_requests", "many")
    world.drain()
    landed(event(team=...))(world)
    merchant(f"usage:m:{today()}:orders", "five")(world)
    every = ["dead-letters:api_key", "dead-letters:merchant", "dead-letters:usage_event"]
    assert open_alerts(world, hook) == every
    assert [one.count for one in reading.read_dead_letters(world.postgres)] == [5, 1, 1]
    world.run("discard", "--family", "api_key", "--reason", "r", "--yes")
    assert open_alerts(world, hook) == every[1:]


def test_a_replay_in_part_keeps_it_open_until_the_rest_is_settled(world: World, hook: Webhook) -> None:
    """As versions before 0012 wrote it: a whole hash with one bad field. Its replay counts the rest."""
    raw = b"*4\r\n$14\r\ntotal_requests\r\n$1\r\n5\r\n$15\r\ntotal_file_size\r\n$5\r\n-2048\r\n"
    world.postgres.execute(
        "insert into ops.dead_letters (family, batch_id, source_key, reason, raw, raw_format, claimed_at)"
        " values ('api_key', 'old', 'apikey:k:metrics', 'r', %s, 'hash', now())",
        (raw,),
    )
    assert open_alerts(world, hook) == ["dead-letters:api_key"]
    world.run("replay", "1")
    assert world.states() == {1: "counted", 2: "open"}
    assert open_alerts(world, hook) == ["dead-letters:api_key"]
    world.run("discard", "2", "--reason", "sizes are not charged")
    assert open_alerts(world, hook) == []


# merchants: their counters stay in Redis, and are read again and again


def test_a_discarded_merchant_counter_stays_discarded_while_it_reads_the_same(world: World, hook: Webhook) -> None:
    name = f"usage:m:{today()}:orders"
    merchant(name, "five")(world)
    assert open_alerts(world, hook) == ["dead-letters:merchant"]
    world.run("discard", "1", "--reason", "a test of the shop")
    for _ in range(2):
        world.aggregate()
    assert world.states() == {1: "discarded"}
    assert open_alerts(world, hook) == []
    assert faults(world, "merchant") == []


def test_what_a_discarded_counter_grows_to_is_a_matter_of_its_own(world: World, hook: Webhook) -> None:
    name = f"usage:m:{today():%Y-%m}-45:orders"
    merchant(name, "5")(world)
    world.run("discard", "1", "--reason", "a test of the shop")
    for grown in ("6", "7"):
        merchant(name, grown)(world)
    assert world.states() == {1: "discarded", 2: "open"}
    assert world.query("select raw from ops.dead_letters order by dead_letter_id") == [(b"5",), (b"7",)]
    assert open_alerts(world, hook) == ["dead-letters:merchant"]


def test_a_discarded_counter_that_reads_well_counts_and_is_open_when_it_is_refused_again(world: World) -> None:
    name = f"usage:m:{today()}:orders"
    merchant(name, "five")(world)
    world.run("discard", "1", "--reason", "r")
    merchant(name, "5")(world)
    assert (world.states(), world.query(MERCHANTS)) == ({1: "counted"}, [("m", 5)])
    merchant(name, "five")(world)
    assert world.states() == {1: "open"}


# the reconciliation


def balance(world: World, family: str) -> DayBalance:
    rows = reconcile(world.settings, sleep=lambda _: None).rows
    return next(row for row in rows if row.family == family and row.usage_date == today())


def test_what_was_recorded_and_discarded_is_neither_missing_nor_waiting(world: World, recorder: Recorder) -> None:
    world.redis.hset("apikey:full:metrics", "total_requests", 2**63 - 1)
    world.drain()
    assert recorder.record_api_key("full", requests=7)
    world.drain()
    assert (balance(world, "api_key").dead, balance(world, "api_key").discarded) == (7, 0)
    world.run("discard", "1", "--reason", "r")
    found = balance(world, "api_key")
    assert (found.recorded, found.dead, found.discarded, found.missing) == (7, 0, 7, 0)
    assert world.query("select sum(missing), sum(discarded) from ops.reconciliation") == [(0, 7)]
    world.postgres.execute("update usage.api_keys set total_requests = 0")
    world.run("replay", "1")
    found = balance(world, "api_key")
    assert (found.discarded, found.missing) == (0, 0)


def test_the_same_merchant_counter_is_refused_once_however_many_letters_it_has(world: World) -> None:
    name = f"usage:m:{today():%Y-%m}-45:orders"
    merchant(name, "5")(world)
    world.run("discard", "1", "--reason", "r")
    merchant(name, "8")(world)
    found = balance(world, "merchant")
    assert (found.dead, found.discarded) == (8, 0)


def test_metrics_keep_open_and_discarded_apart(world: World) -> None:
    key(total_requests="many")(world)
    landed(event(team=...), event(team=...))(world)
    world.run("discard", "2", "--reason", "r")
    counts = {
        family: open_matters.dead_letter_counts(world.postgres, [family])
        for family in ("api_key", "usage_event", "token")
    }
    assert counts == {
        "api_key": {"open": 1, "discarded": 0},
        "usage_event": {"open": 1, "discarded": 1},
        "token": {"open": 0, "discarded": 0},
    }


def test_a_decision_is_older_than_what_comes_after_it(world: World, hook: Webhook) -> None:
    """Discarding ends what was there; the next refusal of the same writer is open."""
    key(total_requests="many")(world)
    world.run("discard", "--family", "api_key", "--reason", "r", "--yes")
    assert open_alerts(world, hook) == []
    key(total_requests="many")(world)
    assert world.states() == {1: "discarded", 2: "open"}
    assert open_alerts(world, hook) == ["dead-letters:api_key"]
    [[at]] = world.query("select discarded_at from ops.dead_letters where dead_letter_id = 1")
    assert datetime.now(UTC) - at < timedelta(hours=1)
