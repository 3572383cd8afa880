"""`usage-pipeline budgets` as a person or a script calls it."""

import json
import subprocess
from datetime import UTC, datetime

import psycopg
import pytest
import redis

from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.windows import event_at, store_events

SEARCH = ("--scope", "team=search", "--period", "month", "--limit", "500", "--unit", "usd")


def use_now(postgres: psycopg.Connection, settings: Settings, *models: str) -> None:
    now = datetime.now(UTC)
    store_events(postgres, settings, now, *(event_at(now, model=model) for model in models))
    replace_window(postgres, day_window(now.date(), settings.timezone), settings=settings)


def test_a_budget_is_set_listed_and_removed(
    run: Run, settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    use_now(postgres, settings, "gpt-4o", "gpt-4o", "unheard-of")
    made = run("budgets", "set", "search", *SEARCH, "--json")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert (document["success"], document["change"], document["budget"]["used"]) == (True, "made", "0.02")
    assert redis_client.exists("usage_pipeline:budget:team=search"), "gateways hear of it at once"
    [listed] = json.loads(run("budgets", "list", "--json").stdout)["budgets"]
    today = datetime.now(UTC).date()
    assert listed | {"forecast": "", "as_of": "", "period_end": ""} == {
        "name": "search",
        "scope": "team=search",
        "period": "month",
        "period_start": str(today.replace(day=1)),
        "period_end": "",
        "unit": "usd",
        "limit": "500",
        "used": "0.02",
        "left": "499.98",
        "share": 0.00004,
        "forecast": "",
        "unpriced_requests": 1,
        "alert_shares": [50, 80, 100],
        "as_of": "",
    }
    shown = run("budgets", "list").stdout
    assert [one for one in ("search", "team=search", "500.00 USD", "0.02 USD", "0.0%") if one not in shown] == []
    assert "search: 1 request without a price is not in it" in shown
    assert run("budgets", "remove", "search").stdout == 'Budget "search" is removed.\n'
    assert redis_client.keys("usage_pipeline:budget*") == [b"usage_pipeline:budget:as_of"]
    again = run("budgets", "remove", "search")
    assert (again.returncode, again.stderr) == (1, 'No budget has the name "search": nothing to remove.\n')
    assert json.loads(run("budgets", "list", "--json").stdout) == {"budgets": []}
    assert run("budgets", "list").stdout == "0 budgets.\n"


def test_to_set_it_twice_changes_nothing_and_otherwise_changes_it(run: Run, postgres: psycopg.Connection) -> None:
    query = "select limit_amount::text, alert_shares, created_at, updated_at from ops.budgets"
    run("budgets", "set", "search", *SEARCH)
    [first] = postgres.execute(query).fetchall()
    again = run("budgets", "set", "search", *SEARCH, "--alert", "100,80,50,50")
    assert again.stdout == 'Budget "search" is as it was. 0.00 USD of 500.00 USD are used.\n'
    assert postgres.execute(query).fetchall() == [first]
    changed = json.loads(run("budgets", "set", "search", *SEARCH, "--limit", "0.5", "--alert", "90%", "--json").stdout)
    assert changed["change"] == "changed"
    [other] = postgres.execute(query).fetchall()
    assert other[:3] == ("0.5", [90], first[2])
    assert other[3] > first[3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--scope", "search"), "--scope: expected one of team=NAME, service=NAME, user=NAME"),
        (("--scope", "color=red"), "or all, came 'color=red'"),
        (("--scope", "team="), "--scope team: expected 1 to 200 characters, came 0"),
        (("--period", "year"), "--period: expected one of day, week, month, came 'year'"),
        (("--unit", "eur"), "--unit: expected one of usd, tokens, requests, came 'eur'"),
        (("--limit", "0"), "--limit: expected a number above 0"),
        (("--limit", "-5"), "--limit: expected a number above 0"),
        (("--limit", "many"), "--limit: expected a number above 0 and at most 1,000,000,000,000,000, came 'many'"),
        (("--limit", "nan"), "--limit: expected a number above 0"),
        (("--limit", "Infinity"), "--limit: expected a number above 0"),
        (("--limit", "1e16"), "--limit: expected a number above 0"),
        (("--limit", "0.000000000001"), "--limit: expected at least 0.01 usd, came '0.000000000001'"),
        (("--limit", "0.0099"), "--limit: expected at least 0.01 usd"),
        (("--limit", "1e-400000000"), "--limit: expected at least 0.01 usd"),
        (("--limit", "1e999999999999999999"), "--limit: expected a number above 0"),
        (("--limit", "sNaN"), "--limit: expected a number above 0"),
        (("--limit", "1.5", "--unit", "tokens"), "--limit: expected at most 0 decimals of tokens, came '1.5'"),
        (("--alert", "half"), "--alert: expected at most 10 whole percents from 1 to 1,000"),
        (("--alert", "0"), "--alert: expected at most 10 whole percents"),
        (("--alert", "50,,80"), "--alert: expected at most 10 whole percents"),
        (("--alert", "0000150000"), "--alert: expected at most 10 whole percents from 1 to 1,000"),
        (("--alert", "00000"), "--alert: expected at most 10 whole percents"),
        (("--alert", "9" * 5_000), "--alert: expected at most 10 whole percents"),
        (("--alert", "1001"), "--alert: expected at most 10 whole percents"),
        (("--alert", ",".join(map(str, range(1, 12)))), "--alert: expected at most 10 whole percents"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run: Run, postgres: psycopg.Connection, changes: tuple[str, ...], said: str
) -> None:
    refused = run("budgets", "set", "search", *SEARCH, *changes)
    assert refused.returncode == 2
    [line] = refused.stderr.strip().splitlines()
    assert said in line
    assert postgres.execute("select count(*) from ops.budgets").fetchone() == (0,)


def test_a_name_is_a_text_that_can_be_stored(run: Run) -> None:
    refused = run("budgets", "set", "x" * 201, *SEARCH)
    assert (refused.returncode, "NAME: expected 1 to 200 characters, came 201" in refused.stderr) == (2, True)
    assert run("budgets", "set", "a:b [c] é", *SEARCH).returncode == 0
    assert "a:b [c] é" in run("budgets", "list").stdout


@pytest.mark.parametrize("name", ["\n", "a\nb", "a\tb", "a\x1b[31m", "a\u202eb", "a\u2028b", " ", " a", "a "])
def test_a_name_is_one_line_that_can_be_read(run: Run, postgres: psycopg.Connection, name: str) -> None:
    refused = run("budgets", "set", name, *SEARCH)
    assert refused.returncode == 2
    [line] = refused.stderr.strip().splitlines()
    assert "NAME: expected characters that can be seen, in one line and without spaces around them, came " in line
    assert postgres.execute("select count(*) from ops.budgets").fetchone() == (0,)
    # One of an earlier version can be removed.
    postgres.execute(
        "insert into ops.budgets (name, period, unit, limit_amount, alert_shares) values (%s, 'day', 'usd', 1, '{100}')",
        (name,),
    )
    assert json.loads(run("budgets", "remove", name, "--json").stdout)["removed"] is True


def test_without_redis_a_budget_is_set_and_a_note_says_when_gateways_know(
    run: Run, postgres: psycopg.Connection
) -> None:
    done: subprocess.CompletedProcess[str] = run("budgets", "set", "search", *SEARCH, REDIS_URL="redis://127.0.0.1:9/0")
    assert done.returncode == 0
    assert done.stderr.strip().endswith("then they hear of this from the sensor `alerts`.")
    assert postgres.execute("select name from ops.budgets").fetchall() == [("search",)]


def test_what_redis_refuses_is_said_as_it_is(run: Run, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)
    try:
        done: subprocess.CompletedProcess[str] = run("budgets", "set", "search", *SEARCH)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert done.returncode == 0
    assert "Redis refused: " in done.stderr
    assert "maxmemory" in done.stderr
    assert "does not answer" not in done.stderr


@pytest.mark.parametrize("loss", ["lost", "another type"])
def test_a_budget_that_is_removed_or_moved_goes_though_the_list_of_scopes_is_lost(
    run: Run, redis_client: redis.Redis, loss: str
) -> None:
    def lose() -> None:
        redis_client.delete("usage_pipeline:budget_scopes")
        if loss == "another type":
            redis_client.set("usage_pipeline:budget_scopes", "x")

    run("budgets", "set", "search", *SEARCH)
    lose()
    assert "gateways" not in run("budgets", "set", "search", *SEARCH, "--scope", "team=ads").stderr
    names = {b"usage_pipeline:budget:as_of", b"usage_pipeline:budget:team=ads"}
    assert set(redis_client.keys("usage_pipeline:budget:*")) == names
    lose()
    assert "gateways" not in run("budgets", "remove", "search").stderr
    assert redis_client.keys("usage_pipeline:budget*") == [b"usage_pipeline:budget:as_of"]
