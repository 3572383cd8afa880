"""Quotas of tokens: exactly so many requests a day, in the time zone's days, and what a client is told of it."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from zoneinfo import ZoneInfo

import httpx
import pytest

from usage_pipeline.access.quota import Share, TokenQuota
from usage_pipeline.access.tokens import AccessToken, create_token
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.quick_redis import QuickRedis
from usage_pipeline_tests.rigs.service import Shared, expect_problem, serving
from usage_pipeline_tests.rigs.waiting import wait_until

VIENNA = ZoneInfo("Europe/Vienna")


def asked(shared: Shared, token: str, path: str = "/api/rankings/models") -> httpx.Response:
    return shared.service.client.get(path, headers={"Authorization": f"Bearer {token}"})


def taken(
    settings: Settings, quota: int | None, moments: list[str], *, timezone: ZoneInfo = VIENNA, token_id: str
) -> list[Share | None]:
    """What requests at these local moments are told."""
    token = AccessToken(token_id, "upt_x", "", "", (), None, None, quota, None)

    async def take() -> list[Share | None]:
        cache = QuickRedis.of(settings)
        times = iter([datetime.fromisoformat(moment).replace(tzinfo=timezone).timestamp() for moment in moments])
        counting = TokenQuota(cache, timezone, clock=lambda: next(times))
        try:
            return [await counting.take_one(token) for _ in moments]
        finally:
            await cache.close()

    return asyncio.run(take())


def test_the_request_over_the_quota_is_429_and_says_when_to_come_back(shared: Shared) -> None:
    token = create_token(shared.postgres, "small", ["read"], quota=2).token
    answers = [asked(shared, token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"2"}
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {"2;w=86400"}
    assert "at most 2 requests a day" in expect_problem(answers[2], 429, "quota-exceeded")
    assert answers[2].headers["retry-after"] == answers[2].headers["ratelimit-reset"]
    assert 0 < int(answers[2].headers["retry-after"]) <= 86_400


def test_a_token_without_a_quota_has_no_such_headers(shared: Shared) -> None:
    headers = shared.client.get("/api/rankings/models").headers
    assert not [name for name in headers if name.startswith("ratelimit")]


def test_what_is_refused_is_neither_counted_nor_recorded(shared: Shared) -> None:
    made = create_token(shared.postgres, "small", ["read"], quota=1)
    assert [asked(shared, made.token).status_code for _ in range(4)] == [200, 429, 429, 429]
    [key] = shared.redis.keys(f"usage_pipeline:token_quota:{made.token_id}:*")
    assert shared.redis.get(key) == b"1"
    assert 86_400 < shared.redis.ttl(key) <= 2 * 86_400
    usage = f"token_usage:{made.token_id}:*"
    wait_until(lambda: shared.redis.keys(usage), "a use is recorded", 20)
    [recorded] = shared.redis.keys(usage)
    assert json.loads(shared.redis.get(recorded) or b"")["usageCount"] == 1


def test_a_wrong_token_of_that_prefix_costs_nothing_of_the_quota(shared: Shared) -> None:
    made = create_token(shared.postgres, "small", ["read"], quota=1)
    for _ in range(3):
        assert asked(shared, made.token[:-1] + ("A" if made.token[-1] != "A" else "B")).status_code == 401
    assert asked(shared, made.token).status_code == 200


def test_a_request_that_fails_its_own_way_counts_and_says_what_is_left(shared: Shared) -> None:
    token = create_token(shared.postgres, "small", ["read"], quota=5).token
    answer = asked(shared, token, "/api/rankings/nobody")
    assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (404, "4")
    answer = shared.service.client.post(
        "/api/v1/ingest/requests:bulk", json=[], headers={"Authorization": f"Bearer {token}"}
    )
    assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (403, "3")


def test_of_a_thousand_requests_at_once_exactly_as_many_pass_as_the_quota_has(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a burst may last longer, and whoever waits too long for a connection is refused uncounted.
    monkeypatch.setattr("usage_pipeline.storage.quick_redis._CONNECTION_SECONDS", 30)
    token = AccessToken("thousand", "upt_x", "", "", (), None, None, 100, None)

    async def burst() -> list[bool]:
        caches = [QuickRedis.of(shared.settings) for _ in range(2)]  # as two processes would
        gates = [TokenQuota(cache, VIENNA) for cache in caches]
        shares = await asyncio.gather(*(gates[number % 2].take_one(token) for number in range(1_000)))
        for cache in caches:
            await cache.close()
        return [share.is_refused for share in shares if share]

    refused = asyncio.run(burst())
    assert (refused.count(False), refused.count(True)) == (100, 900)


def test_of_many_requests_over_http_exactly_as_many_pass(shared: Shared) -> None:
    token = create_token(shared.postgres, "forty", ["read"], quota=40).token
    with ThreadPoolExecutor(30) as many:
        statuses = [answer.status_code for answer in many.map(lambda _: asked(shared, token), range(150))]
    assert (statuses.count(200), statuses.count(429)) == (40, 110)


def test_the_day_changes_at_midnight_of_the_time_zone(shared: Shared) -> None:
    moments = ["2026-11-20T23:59:58", "2026-11-20T23:59:59", "2026-11-21T00:00:00"]
    first, second, third = taken(shared.settings, 1, moments, token_id="midnight")
    assert first
    assert second
    assert third
    assert (first.is_refused, second.is_refused, third.is_refused) == (False, True, False)
    assert (first.reset_seconds, second.reset_seconds, third.reset_seconds) == (2, 1, 86_400)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-20", 24)])
def test_a_day_of_a_clock_change_is_as_long_as_it_is(shared: Shared, day: str, hours: int) -> None:
    [share, late] = taken(shared.settings, 5, [f"{day}T00:00:00", f"{day}T23:00:00"], token_id=f"dst-{day}")
    assert share
    assert late
    assert (share.reset_seconds, share.day_seconds) == (hours * 3600, hours * 3600)
    assert late.reset_seconds == 3600
    assert (share.remaining, late.remaining) == (4, 3)
    assert share.headers["RateLimit-Policy"] == f"5;w={hours * 3600}"


def test_a_quota_that_is_raised_has_room_at_once(shared: Shared) -> None:
    moments = ["2026-11-20T12:00:00"] * 5
    assert [share.is_refused for share in taken(shared.settings, 2, moments, token_id="raised") if share] == [
        False, False, True, True, True,
    ]  # fmt: skip
    [share] = taken(shared.settings, 4, moments[:1], token_id="raised")
    assert share
    assert (share.is_refused, share.remaining) == (False, 1)


def test_without_redis_every_request_is_allowed_and_that_is_logged_once(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    token = create_token(shared.postgres, "small", ["read"], quota=1).token
    url = shared.settings.database_url.get_secret_value()
    with serving(load_settings(database_url=url, redis_url="redis://127.0.0.1:1")) as service:
        client = service.with_token(token)
        answers = [client.get("/api/rankings/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert "ratelimit-limit" not in answers[0].headers
    assert len([one for one in caplog.records if "the service goes on without Redis" in one.message]) == 1


def test_a_foreign_value_in_the_counter_lets_requests_through(shared: Shared) -> None:
    shared.redis.set("usage_pipeline:token_quota:foreign:2026-11-20", "many")
    assert taken(shared.settings, 1, ["2026-11-20T12:00:00"], token_id="foreign") == [None]
