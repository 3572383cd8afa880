"""A round of drains and the worker's loop: servers that are away, budgets, stops, quotas."""

import logging
import socket
import threading
from collections.abc import Callable

import psycopg
import pytest
import redis
from psycopg import sql
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.rounds import DrainImpossible, RoundReport, drain_once, drain_until_empty, watch
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.drain.rig import Writer, assert_at_rest, stored
from usage_pipeline_tests.rigs.service import as_role


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def one_line_of(problem: pytest.ExceptionInfo[DrainImpossible]) -> str:
    text = str(problem.value)
    assert "\n" not in text
    assert "s3cret" not in text
    return text


def test_nothing_is_claimed_while_postgresql_is_away(
    redis_url: str, redis_client: redis.Redis, closed_port: int
) -> None:
    Writer(redis_client, announces=True).write("api_key", ["a"])
    before = sorted(redis_client.keys())
    settings = load_settings(database_url=f"postgresql://u:s3cret@127.0.0.1:{closed_port}/usage", redis_url=redis_url)
    with pytest.raises(DrainImpossible) as problem:
        drain_once(settings)
    assert one_line_of(problem).startswith("PostgreSQL does not answer: ")
    assert one_line_of(problem).endswith("; nothing is claimed, the counters wait in Redis")
    assert sorted(redis_client.keys()) == before


def test_a_role_without_rights_is_told_of_its_rights_and_not_of_an_old_schema(
    settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    Writer(redis_client).write("api_key", ["a"])
    postgres.execute("create role nobody_yet login")
    try:
        with pytest.raises(DrainImpossible) as problem:
            drain_once(as_role(settings, "nobody_yet"))
    finally:
        postgres.execute("drop role nobody_yet")
    assert one_line_of(problem).startswith("the role of DATABASE_URL may not drain: permission denied for ")
    assert one_line_of(problem).endswith("or let the owner run: usage-pipeline migrate")


def test_a_server_that_cannot_be_written_to_is_as_good_as_away(
    database_url: str, redis_url: str, redis_client: redis.Redis
) -> None:
    Writer(redis_client).write("api_key", ["a"])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("alter database {} set default_transaction_read_only = on").format(
                sql.Identifier(connection.info.dbname)
            )
        )
    with pytest.raises(DrainImpossible, match="nothing is claimed"):
        drain_once(load_settings(database_url=database_url, redis_url=redis_url))
    assert redis_client.keys() == [b"apikey:a:metrics"]


def test_a_database_without_the_schema_is_named_and_nothing_is_claimed(
    settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    postgres.execute("drop schema ops cascade")
    Writer(redis_client).write("api_key", ["a"])
    with pytest.raises(DrainImpossible) as problem:
        drain_once(settings)
    assert one_line_of(problem).startswith("the schema is missing or old: ")
    assert one_line_of(problem).endswith("run: usage-pipeline migrate")
    assert redis_client.keys() == [b"apikey:a:metrics"]


def test_a_redis_that_is_away_is_one_line(database_url: str, closed_port: int) -> None:
    settings = load_settings(database_url=database_url, redis_url=f"redis://:s3cret@127.0.0.1:{closed_port}/0")
    with pytest.raises(DrainImpossible) as problem:
        drain_once(settings)
    assert one_line_of(problem).startswith("Redis")


def test_a_redis_that_forbids_a_command_is_one_line(settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.set(names.open_batches("api_key"), "not a hash")
    with pytest.raises(DrainImpossible, match=r"^Redis refused a command: WRONGTYPE"):
        drain_once(settings)


def test_a_spent_budget_is_said_and_the_rest_is_left(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writer = Writer(redis_client)
    writer.write("api_key", [str(number) for number in range(7)])
    few_keys = settings.model_copy(update={"drain_chunk_keys": 2})
    report = drain_once(few_keys, budget_seconds=0.0)
    assert not report.is_complete
    assert report.keys < 7
    assert drain_once(few_keys).is_complete
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")


@pytest.mark.parametrize("busy", ["api_key", "provider", "token"])
def test_busy_counters_leave_the_event_queue_its_share(
    busy: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """One deadline for all was used up by the first, round after round."""
    small = settings.model_copy(update={"drain_chunk_keys": 5})
    Writer(redis_client).write(busy, [str(number) for number in range(200)])
    Writer(redis_client).write("event", ["k"], 10)
    report = drain_once(small, [busy, "event"], budget_seconds=0.0)
    left = {found.family: found.is_complete for found in report.families}
    assert left == {busy: False, "event": True}
    assert postgres.execute("select count(*) from raw.request_events").fetchone() == (10,)


def test_draining_until_empty_comes_back_for_claims_that_were_too_young(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.barrier._EVERYSEC_LOSS_MS", 100)
    monkeypatch.setattr("usage_pipeline.drain.rounds._RETRY_SECONDS", 0.1)
    writer = Writer(redis_client)
    for family in ("api_key", "token", "event"):
        writer.write(family, ["a"])
    report = drain_until_empty(settings.model_copy(update={"drain_barrier": "age"}), should_stop=threading.Event())
    assert report.keys == 3
    assert [*redis_client.scan_iter("usage_pipeline:claim:*")] == []


def test_quotas_are_published_on_the_way(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    postgres.execute("insert into usage.api_key_quotas values ('k', 100, null)")
    drain_once(settings)
    assert redis_client.hgetall(recorder_keys.quota("k")) == {b"requests_per_day": b"100"}


class Rounds:
    """What `watch` reports, and a stop after some of it."""

    def __init__(self, stop_after_keys: int) -> None:
        self.should_stop = threading.Event()
        self.keys = 0
        self._stop_after_keys = stop_after_keys

    def __call__(self, report: RoundReport) -> None:
        self.keys += report.keys
        if self.keys >= self._stop_after_keys:
            self.should_stop.set()


def watching(settings: Settings, rounds: Rounds) -> threading.Thread:
    thread = threading.Thread(
        target=watch,
        args=(settings, ["api_key", "token"]),
        kwargs={"should_stop": rounds.should_stop, "on_round": rounds},
    )
    thread.start()
    return thread


def test_watching_drains_what_comes_and_stops_with_nothing_claimed(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    rounds, writer = Rounds(stop_after_keys=4), Writer(redis_client)
    writer.write("token", ["t"])
    fast = settings.model_copy(update={"metrics_sync_interval_ms": 20, "drain_chunk_keys": 1})
    thread = watching(fast, rounds)
    writer.write("api_key", ["a", "b", "c"])
    thread.join(30)
    assert not thread.is_alive()
    assert rounds.keys == 4
    assert {**stored(postgres, "api_key"), **stored(postgres, "token")} == writer.written
    assert_at_rest(redis_client, postgres, "api_key")


def test_watching_holds_the_locks_so_that_others_stand_down(settings: Settings, redis_client: redis.Redis) -> None:
    rounds = Rounds(stop_after_keys=1)
    is_round_done = threading.Event()

    def on_round(report: RoundReport) -> None:
        is_round_done.set()
        rounds(report)

    thread = threading.Thread(
        target=watch,
        args=(settings.model_copy(update={"metrics_sync_interval_ms": 20}), ["api_key"]),
        kwargs={"should_stop": rounds.should_stop, "on_round": on_round},
    )
    thread.start()
    assert is_round_done.wait(30)
    assert drain_once(settings, ["api_key"]).busy == ["api_key"]
    Writer(redis_client).write("api_key", ["a"])
    thread.join(30)
    assert not thread.is_alive()
    assert drain_once(settings, ["api_key"]).busy == []


def test_watching_says_once_that_a_server_is_away(
    redis_url: str,
    redis_client: redis.Redis,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.rounds._RETRY_SECONDS", 0.01)
    settings = load_settings(database_url=f"postgresql://u:s3cret@127.0.0.1:{closed_port}/usage", redis_url=redis_url)
    waits = 0

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal waits
            waits += 1
            if waits == 5:
                self.set()
            return super().wait(timeout)

    should_stop = Impatient()
    with caplog.at_level(logging.INFO, "usage_pipeline"):
        watch(settings, ["api_key"], should_stop=should_stop, on_round=lambda report: None)
    assert waits == 5
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("drain: PostgreSQL does not answer")
    assert "s3cret" not in caplog.text


def test_watching_goes_on_when_postgresql_is_back(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.rounds._RETRY_SECONDS", 0.01)
    rounds, writer = Rounds(stop_after_keys=1), Writer(redis_client)
    ended = 0

    def on_round(report: RoundReport) -> None:
        nonlocal ended
        rounds(report)
        if not ended:
            [(ended,)] = postgres.execute(
                "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity "
                "where pid <> pg_backend_pid() and datname = current_database()"
            ).fetchall()
            writer.write("api_key", ["a"])

    with caplog.at_level(logging.INFO, "usage_pipeline"):
        watch(
            settings.model_copy(update={"metrics_sync_interval_ms": 20}),
            ["api_key"],
            should_stop=rounds.should_stop,
            on_round=on_round,
        )
    assert ended == 1
    assert stored(postgres, "api_key") == writer.written
    assert [message.split(":")[1] for message in caplog.messages[:2]] == [" PostgreSQL went away", " goes on"]
    assert_at_rest(redis_client, postgres, "api_key")


def test_watching_notices_a_barrier_that_has_become_necessary(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """A connection is kept for days; what the server promises may change meanwhile."""
    rounds, writer = Rounds(stop_after_keys=1), Writer(redis_client)
    left_claimed: list[int] = []

    def on_round(report: RoundReport) -> None:
        left_claimed.append(report.left_claimed)
        if len(left_claimed) == 1:
            redis_client.config_set("appendfsync", "everysec")
            writer.write("api_key", ["a"])
        elif len(left_claimed) == 2:
            redis_client.config_set("appendfsync", "always")
        rounds(report)

    try:
        watch(
            settings.model_copy(update={"metrics_sync_interval_ms": 20}),
            ["api_key"],
            should_stop=rounds.should_stop,
            on_round=on_round,
        )
    finally:
        redis_client.config_set("appendfsync", "always")
    # From 7.2 on Redis says when its file is synced; before, the drain leaves young claims to the next round.
    waits_by_age = [int(part) for part in redis_client.info("server")["redis_version"].split(".")] < [7, 2]
    assert left_claimed[:2] == [0, int(waits_by_age)]
    assert stored(postgres, "api_key") == writer.written


def test_watching_gives_a_sign_of_life_between_rounds_that_are_far_apart(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.rounds._BEAT_SECONDS", 0.01)
    should_stop, rounds, beats = threading.Event(), list[RoundReport](), list[str]()

    def on_beat(problem: str) -> None:
        beats.append(problem)
        if len(beats) == 5:
            should_stop.set()

    an_hour = settings.model_copy(update={"metrics_sync_interval_ms": 3_600_000})
    watch(an_hour, ["api_key"], should_stop=should_stop, on_round=rounds.append, on_beat=on_beat)
    assert beats == [""] * 5
    assert len(rounds) == 1


def test_watching_gives_a_sign_of_life_that_says_what_hinders_it(
    settings: Settings, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.rounds._RETRY_SECONDS", 0.01)
    postgres.execute("select pg_advisory_lock(hashtext('drain'), hashtext('api_key'))")
    should_stop, beats = threading.Event(), list[str]()

    def on_beat(problem: str) -> None:
        beats.append(problem)
        if len(beats) == 2:
            postgres.execute("select pg_advisory_unlock(hashtext('drain'), hashtext('api_key'))")
        if not problem:
            should_stop.set()

    watch(settings, ["api_key"], should_stop=should_stop, on_round=lambda _: None, on_beat=on_beat)
    assert set(beats[:2]) == {"another drainer works on api_key; this one waits for it"}
    assert beats[-1] == ""


def session_turns_read_only(connection: psycopg.Connection) -> None:
    """As after a fail-over: the server that was the primary takes no more writes."""
    connection.execute("set default_transaction_read_only = on")


def transactions_take_too_long(connection: psycopg.Connection) -> None:
    """PostgreSQL 17 ends the transaction and the connection."""
    if connection.info.server_version < 170_000:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    connection.execute("set transaction_timeout = 1")


@pytest.mark.parametrize("befalls", [session_turns_read_only, transactions_take_too_long])
def test_watching_waits_for_whatever_time_mends(
    befalls: Callable[[psycopg.Connection], None],
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.rounds._RETRY_SECONDS", 0.01)
    rounds, writer = Rounds(stop_after_keys=1), Writer(redis_client)
    opened: list[psycopg.Connection] = []

    def connect_and_keep(settings: Settings) -> psycopg.Connection:
        opened.append(connect(settings))
        return opened[-1]

    def on_round(report: RoundReport) -> None:
        rounds(report)
        if len(opened) == 1:
            writer.write("api_key", ["a"])
            befalls(opened[0])

    monkeypatch.setattr("usage_pipeline.drain.rounds.connect", connect_and_keep)
    with caplog.at_level(logging.INFO, "usage_pipeline"):
        watch(
            settings.model_copy(update={"metrics_sync_interval_ms": 20}),
            ["api_key"],
            should_stop=rounds.should_stop,
            on_round=on_round,
        )
    assert [message.split(":")[1] for message in caplog.messages[:2]] == [" PostgreSQL went away", " goes on"]
    assert stored(postgres, "api_key") == writer.written
    assert_at_rest(redis_client, postgres, "api_key")


def test_another_server_is_said_once_however_many_ticks_find_nothing_to_drain(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Writer(redis_client).write("api_key", ["a"])
    drain_once(settings, ["api_key"])
    said = []
    for server in ("before", "before that"):
        postgres.execute("update ops.sync_batches set redis_server = %s", (server,))
        redis_client.set(names.drained_server("api_key"), server)
        with caplog.at_level(logging.INFO, "usage_pipeline"):
            for _ in range(3):
                drain_once(settings, ["api_key"])
        said.append(sum("does not know the end" in message for message in caplog.messages))
    assert said == [1, 2]
