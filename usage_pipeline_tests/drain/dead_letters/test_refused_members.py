"""One bad member of a key does not cost the good ones, and has a way back: all through real drains and the real command."""

import json
import uuid
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from usage_pipeline.cli import app
from usage_pipeline.drain import dead_letters
from usage_pipeline.drain.corrections import Correction
from usage_pipeline.drain.families import API_KEY, TOKEN
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.values import TimeWindow
from usage_pipeline_tests.drain.rig import Crash, Life, assert_at_rest, crash_at, drain_quietly, event_item, lives

NOW = datetime.now(UTC)
NOW_MS = int(NOW.timestamp() * 1000)
YESTERDAY = NOW - timedelta(days=1)
YESTERDAY_MS = int(YESTERDAY.timestamp() * 1000)
TWO_YEARS_AGO = NOW - timedelta(days=730)


def letters(postgres: psycopg.Connection) -> list[dead_letters.StoredDeadLetter]:
    return dead_letters.list_dead_letters(postgres)


def replay(settings: Settings, **changes: object) -> list[dead_letters.ReplayResult]:
    """Replays; `members` are set before, for the reason "test"."""
    members = changes.pop("members", None)
    correction = Correction(members, "test", "somebody@host") if isinstance(members, dict) else None
    with closing(connect(settings)) as connection:
        store = UsageStore(connection, usage_timezone="UTC", drained_by="test")
        choice = dead_letters.Choice(**changes)
        return list(
            dead_letters.replay(connection, store, choice, times=settings.possible_times, correction=correction)
        )


def requests(postgres: psycopg.Connection) -> dict[str, int]:
    return dict(postgres.execute("select api_key_id, total_requests from usage.api_keys").fetchall())


# the case of the report

BAD_MEMBERS = [
    ("total_file_size", -2048, "total_file_size: expected a count of 0 or more, came '-2048'"),
    ("total_file_size", "1024.5", "total_file_size: expected an integer, came '1024.5'"),
    ("last_used_at", NOW_MS // 1000, "last_used_at: expected a time from "),
    ("last_used_at", int(TWO_YEARS_AGO.timestamp() * 1000), "last_used_at: expected a time from "),
    ("last_used_at", "soon", "last_used_at: expected epoch milliseconds, came 'soon'"),
]


@pytest.mark.parametrize(("member", "value", "reason"), BAD_MEMBERS, ids=range(len(BAD_MEMBERS)))
def test_five_requests_of_a_key_count_whatever_its_other_member_is(
    member: str, value: object, reason: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fields = {"total_requests": 5, "successful_requests": 5, "last_used_at": NOW_MS}
    redis_client.hset("apikey:k:metrics", mapping=fields | {member: value})
    report = drain_once(settings, ["api_key"])
    assert (report.keys, report.dead_letters) == (1, 1)
    assert requests(postgres) == {"k": 5}
    [letter] = letters(postgres)
    assert (letter.member, letter.source_key) == (member, b"apikey:k:metrics")
    assert letter.reason.startswith(reason)
    assert str(value).encode() in letter.raw
    [(used_at, claimed_at)] = postgres.execute(
        "select total.last_used_at, batch.claimed_at from usage.api_keys as total cross join ops.sync_batches as batch"
    ).fetchall()
    assert used_at == (claimed_at if member == "last_used_at" else NOW.replace(microsecond=NOW_MS % 1000 * 1000))
    assert [result.is_counted for result in replay(settings)] == [False], "refused again, by the same rule"
    assert requests(postgres) == {"k": 5}
    assert_at_rest(redis_client, postgres, "api_key")


@pytest.mark.parametrize(
    "value", [NOW_MS, "soon", "1970-01-01T00:00:00Z", True, [], TWO_YEARS_AGO.isoformat()], ids=range(6)
)
def test_three_uses_of_a_token_count_whatever_its_time_is(
    value: object, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    usage = {"usageCount": 3, "lastUsedAt": value, "instanceId": "host:1"}
    redis_client.set("token_usage:t:host:1", json.dumps(usage))
    assert drain_once(settings, ["token"]).dead_letters == 1
    assert postgres.execute("select token_id, usage_count from usage.api_access_tokens").fetchall() == [("t", 3)]
    [letter] = letters(postgres)
    assert (letter.member, letter.reason.partition(":")[0]) == ("lastUsedAt", "lastUsedAt")
    right = YESTERDAY.isoformat()
    [result] = replay(settings, ids=[letter.dead_letter_id], members={"lastUsedAt": right})
    assert result.is_counted, result
    assert postgres.execute("select usage_count from usage.api_access_tokens").fetchall() == [(3,)]
    assert_at_rest(redis_client, postgres, "token")


def test_a_provider_keeps_its_counts_when_its_user_or_its_size_cannot_be(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fields = {"upload_count": 2, "total_file_size": "7.5", "user_id": "u" * 201, "provider": "b:s3"}
    redis_client.hset("provider:a:b:s3:metrics", mapping={**fields, "last_used_at": YESTERDAY_MS})
    assert drain_once(settings, ["provider"]).dead_letters == 2
    found = {letter.member: letter for letter in letters(postgres)}
    assert {*found} == {"total_file_size", "user_id"}
    for member, value in (("total_file_size", "7"), ("user_id", "u")):
        [result] = replay(settings, ids=[found[member].dead_letter_id], members={member: value})
        assert result.is_counted, result
    columns = "api_key_id, provider, user_id, upload_count, total_file_size"
    assert postgres.execute(f"select {columns} from usage.provider_usage").fetchall() == [("a", "b:s3", "u", 2, 7)]
    days = postgres.execute("select distinct usage_date from raw.provider_deltas").fetchall()
    assert days == [(YESTERDAY.date(),)], "what is set counts for the day of the rest"
    assert_at_rest(redis_client, postgres, "provider")


# times


def test_a_time_before_the_start_of_usage_gives_way_to_the_time_of_the_claim(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """No day before USAGE_START_DATE is ever rolled up, so that what is counted there would never leave."""
    settings = settings.model_copy(update={"usage_start_date": NOW.date() - timedelta(days=5)})
    before = NOW - timedelta(days=20)
    redis_client.hset("apikey:k:metrics", mapping={"total_requests": 7, "last_used_at": int(before.timestamp() * 1000)})
    redis_client.set("token_usage:t:i", json.dumps({"usageCount": 2, "lastUsedAt": before.isoformat()}))
    redis_client.rpush("event_queue", event_item(at=before.isoformat()))
    assert drain_once(settings).dead_letters == 3
    tables = ("api_key_deltas", "token_deltas", "request_events")
    days = {table: postgres.execute(f"select usage_date from raw.{table}").fetchall() for table in tables}
    [(today,)] = postgres.execute(
        "select distinct (claimed_at at time zone 'UTC')::date from ops.sync_batches"
    ).fetchall()
    assert days == {table: [(today,)] for table in tables}
    assert all("(USAGE_START_DATE)" in letter.reason for letter in letters(postgres))


def test_the_first_moment_of_the_start_of_usage_is_a_time_that_can_be(settings: Settings) -> None:
    vienna = settings.model_copy(update={"usage_start_date": date(2026, 3, 1), "usage_timezone": "Europe/Vienna"})
    window = vienna.possible_times.window(int(datetime(2026, 3, 5, tzinfo=UTC).timestamp() * 1000))
    assert window.oldest_ms == datetime(2026, 2, 28, 23, tzinfo=UTC).timestamp() * 1000
    before = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp() * 1000)
    assert vienna.possible_times.window(before) == TimeWindow.around(before, settings.retention_days), "still to come"
    assert settings.possible_times.window(NOW_MS) == TimeWindow.around(NOW_MS, settings.retention_days)


@pytest.mark.parametrize("at", [NOW_MS, "yesterday", None, "1970-01-01T00:00:00Z"], ids=range(4))
def test_a_request_event_is_stored_whatever_its_time_is_and_gets_the_right_one_later(
    at: object, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    event_id = str(uuid.uuid4())
    item = event_item(event_id=event_id, at=at, file_size=9)
    redis_client.rpush("event_queue", item, item)
    report = drain_once(settings, ["event"])
    assert (report.keys, report.families[0].duplicates, report.dead_letters) == (2, 1, 2)
    [letter, again] = letters(postgres)
    assert {letter.member, again.member} == {"at"}
    assert [result.is_counted for result in replay(settings)] == [False, False]
    for number in (letter.dead_letter_id, again.dead_letter_id):
        [result] = replay(settings, ids=[number], members={"at": YESTERDAY.isoformat()})
        assert result.is_counted, result
    stored = postgres.execute("select event_id::text, file_size, at, usage_date from raw.request_events").fetchall()
    assert stored == [(event_id, 9, YESTERDAY, YESTERDAY.date())]
    assert postgres.execute("select usage_date from raw.request_event_ids").fetchall() == [(YESTERDAY.date(),)]
    redis_client.rpush("event_queue", item)
    assert drain_once(settings, ["event"]).dead_letters == 0, "it is stored, and its time is right"
    assert_at_rest(redis_client, postgres, "event")


def test_a_request_event_is_stored_without_members_that_nobody_knows_and_nobody_can_store(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.rpush("event_queue", event_item(note="a\0b", region="eu"))
    assert drain_once(settings, ["event"]).dead_letters == 1
    [letter] = letters(postgres)
    assert letter.member == "note"
    [result] = replay(settings, ids=[letter.dead_letter_id], members={"note": "a b"})
    assert result.is_counted, result
    assert postgres.execute("select extra from raw.request_events").fetchall() == [({"note": "a b", "region": "eu"},)]
    assert_at_rest(redis_client, postgres, "event")


# the way back


def test_the_command_sets_a_member_counts_it_once_and_keeps_who_when_why_before_and_after(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("REDIS_URL", settings.redis_dsn.get_secret_value())
    redis_client.hset("apikey:k:metrics", mapping={"total_requests": 5, "total_file_size": "10.5"})
    drain_once(settings, ["api_key"])
    [letter] = letters(postgres)
    number = str(letter.dead_letter_id)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["dead-letters", "replay", *arguments])
        return result.exit_code, result.output + str(result.exception or "")

    status, said = run(number, "--set", "total_file_size=10")
    assert (status == 0, "--reason" in said) == (False, True)
    status, said = run("--set", "total_file_size=10", "--reason", "r")
    assert (status == 0, "numbers" in said) == (False, True)
    # Of the rest of the key nothing may count a second time.
    status, said = run(number, "--set", "total_requests=5", "--reason", "r", "--json")
    assert (status, "total_file_size" in said) == (1, True)
    status, _ = run(number, "--set", "total_file_size=x", "--reason", "r")
    assert (status, postgres.execute("select count(*) from ops.corrections").fetchone()) == (1, (0,))
    assert run(number, "--set", "total_file_size=10", "--reason", "the writer rounds now")[0] == 0
    assert run(number, "--set", "total_file_size=10", "--reason", "again")[0] == 0
    status, said = run(number, "--set", "total_file_size=11", "--reason", "another operator's opinion")
    assert (status, "Replayed 0 of 1" in said, "counts already" in said) == (1, True, True)
    totals = postgres.execute("select total_requests, total_file_size from usage.api_keys").fetchall()
    assert totals == [(5, 10)]
    [(who, why, subject, before, after)] = postgres.execute(
        "select corrected_by, reason, subject, before, after from ops.corrections where corrected_at <= clock_timestamp()"
    ).fetchall()
    assert (why, subject) == ("the writer rounds now", f"dead letter {number}")
    assert (before, after) == ({"total_file_size": "10.5"}, {"total_file_size": "10"})
    assert "@" in who


def test_an_old_dead_letter_of_a_whole_key_counts_what_is_right_of_it(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """As versions before wrote it: the whole hash, for one bad field."""
    raw = b"*6\r\n$14\r\ntotal_requests\r\n$1\r\n5\r\n$15\r\ntotal_file_size\r\n$5\r\n-2048\r\n"
    raw += b"$12\r\nlast_used_at\r\n$13\r\n%d\r\n" % YESTERDAY_MS
    postgres.execute(
        "insert into ops.dead_letters (family, batch_id, source_key, reason, raw, raw_format, claimed_at)"
        " values ('api_key', 'old', 'apikey:k:metrics', 'r', %s, 'hash', now())",
        (raw,),
    )
    [old, new] = replay(settings)
    assert (old.is_counted, new.is_counted) == (True, False)
    assert requests(postgres) == {"k": 5}
    [letter] = letters(postgres)
    assert letter.member == "total_file_size"
    assert replay(settings, ids=[letter.dead_letter_id], members={"total_file_size": "2"})[0].is_counted
    assert postgres.execute("select total_requests, total_file_size from usage.api_keys").fetchall() == [(5, 2)]
    assert replay(settings) == []
    assert_at_rest(redis_client, postgres, "api_key")


def test_a_token_whose_instance_contradicts_its_key_counts_when_the_instance_is_set(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    redis_client.set("token_usage:t:host:80", json.dumps({"usageCount": 4, "instanceId": "other"}))
    drain_once(settings, ["token"])
    [letter] = letters(postgres)
    assert letter.member is None
    assert not replay(settings, ids=[letter.dead_letter_id], members={"usagecount": "4"})[0].is_counted
    assert replay(settings, ids=[letter.dead_letter_id], members={"instanceId": "host:80"})[0].is_counted
    assert postgres.execute("select token_id, usage_count from usage.api_access_tokens").fetchall() == [("t", 4)]


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_crash_at_any_step_leaves_one_dead_letter_of_the_member_and_counts_the_rest_once(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, has_crashed = 0, True
    with lives(monkeypatch):
        while has_crashed:
            step += 1
            if family == "api_key":
                redis_client.hset(f"apikey:{step}:metrics", mapping={"total_requests": 1, "total_file_size": -1})
            elif family == "token":
                redis_client.set(f"token_usage:{step}:i", json.dumps({"usageCount": 1, "lastUsedAt": 1}))
            else:
                redis_client.rpush("event_queue", event_item(api_key_id=str(step), at=1))
            with Life(settings, at_step=crash_at(step)) as life:
                try:
                    life.drain(family)
                    has_crashed = False
                except Crash:
                    pass
            drain_quietly(settings, family, times=2)
            found = letters(postgres)
            assert len(found) == step, life.last_step
            table, counted = {
                "api_key": ("usage.api_keys", "total_requests"),
                "token": ("usage.api_access_tokens", "usage_count"),
                "event": ("raw.request_events", "1"),
            }[family]
            assert postgres.execute(f"select sum({counted}) from {table}").fetchone() == (step,), life.last_step
    assert step > 5
    assert_at_rest(redis_client, postgres, family)


# every combination of members

GOOD_COUNTS, BAD_COUNTS = st.sampled_from(["0", "7"]), st.sampled_from(["-1", "1.5", "", "9" * 30])
API_KEY_FIELDS = (
    "total_requests",
    "successful_requests",
    "failed_requests",
    "total_file_size",
    "total_files_uploaded",
)


@given(
    st.dictionaries(st.sampled_from(API_KEY_FIELDS), st.tuples(st.booleans(), GOOD_COUNTS, BAD_COUNTS), min_size=1),
    st.booleans(),
)
@hypothesis_settings(suppress_health_check=list(HealthCheck))
def test_exactly_the_bad_members_are_refused_and_each_is_read_back_alone(
    drawn: dict[str, tuple[bool, str, str]], is_time_bad: bool
) -> None:
    window = TimeWindow.around(NOW_MS, 180)
    fields = {name: good if is_good else bad for name, (is_good, good, bad) in drawn.items()}
    at = str(NOW_MS // 1000 if is_time_bad else NOW_MS - 5)
    value = [text.encode() for pair in {**fields, "last_used_at": at}.items() for text in pair]
    _, *counts, used_at, extra = API_KEY.parse(b"apikey:k:metrics", value, window).row
    refused = API_KEY.parse(b"apikey:k:metrics", value, window).refused
    expected = {name for name, (is_good, _, _) in drawn.items() if not is_good} | (
        {"last_used_at"} if is_time_bad else set()
    )
    assert {member.member for member in refused} == expected
    assert counts == [int(fields.get(name, "0")) if name not in expected else 0 for name in API_KEY_FIELDS]
    assert (used_at, extra) == (datetime.fromtimestamp((NOW_MS if is_time_bad else NOW_MS - 5) / 1000, UTC), None)
    for member in refused:
        again = API_KEY.parse(b"apikey:k:metrics", member.raw, window)
        assert [found.member for found in again.refused] == [member.member]
        assert again.row[1:6] == (0, 0, 0, 0, 0), "nothing of the rest is counted by a replay"


@given(
    st.sampled_from([1, "x", -1, 2.5, None]), st.sampled_from([NOW_MS, "soon", NOW.isoformat(), None]), st.booleans()
)
def test_a_token_is_read_member_by_member(count: object, at: object, is_named: bool) -> None:
    window = TimeWindow.around(NOW_MS, 180)
    value = {"usageCount": count, "lastUsedAt": at} | ({"instanceId": "i"} if is_named else {})
    parsed = TOKEN.parse(b"token_usage:t:i", json.dumps(value).encode(), window)
    expected = ({"usageCount"} if count != 1 else set()) | ({"lastUsedAt"} if at in (NOW_MS, "soon") else set())
    assert {member.member for member in parsed.refused} == expected
    assert parsed.row[2] == (1 if count == 1 else 0)
    for member in parsed.refused:
        assert TOKEN.parse(b"token_usage:t:i", member.raw, window).row[2] == 0
