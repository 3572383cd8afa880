"""`usage-pipeline tokens` as a person or a script calls it."""

import json
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import psycopg
import pytest
import redis

from usage_pipeline.access.tokens import expiry_of
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.places import DOCS, PROJECT


def test_a_token_is_made_listed_and_revoked(run: Run, redis_client: redis.Redis, postgres: psycopg.Connection) -> None:
    made = run("tokens", "create", "loader", "--scope", "ingest", "--scope", "read", "--expires-in-days", "7", "--json")
    document = json.loads(made.stdout)
    assert set(document) == {"token", "token_id", "token_prefix"}
    assert document["token"].startswith(document["token_prefix"])
    [listed] = json.loads(run("tokens", "list", "--json").stdout)["tokens"]
    assert (listed["token_id"], listed["name"], listed["scopes"]) == (
        document["token_id"],
        "loader",
        ["ingest", "read"],
    )
    assert listed["expires_at"]
    shown = run("tokens", "list").stdout
    assert "loader" in shown
    assert document["token"] not in shown + json.dumps(listed)

    key = f"api_token:{document['token_prefix']}"
    for name in (document["token_id"], document["token_prefix"]):  # it may be repeated
        redis_client.set(key, "cached")
        assert run("tokens", "revoke", name).returncode == 0
        assert redis_client.get(key) is None
    [(is_revoked,)] = postgres.execute("select revoked_at < now() from usage.api_access_tokens").fetchall()
    assert is_revoked


def test_without_json_the_token_alone_is_on_standard_output(run: Run) -> None:
    made = run("tokens", "create", "loader", "--scope", "ingest", "--never-expires")
    assert made.stdout.startswith("upt_")
    assert len(made.stdout.split()) == 1
    [note] = made.stderr.strip().splitlines()
    assert note.startswith('Made token "loader". The secret is the line on standard output, from upt_ to its end')
    assert "shown this once" in note
    assert made.stdout.strip() not in note
    [token] = json.loads(run("tokens", "list", "--json").stdout)["tokens"]
    assert f"Its first part, {token['token_prefix']}, is no secret" in note
    assert token["token_id"] not in note, "which would pass for the secret where that is in a variable"


def test_a_token_ends_when_its_maker_says(run: Run, postgres: psycopg.Connection) -> None:
    for name, *ends in (
        ("days", "--expires", "90d"), ("hours", "--expires", "12h"), ("date", "--expires", "2040-03-01"),
        ("number", "--expires-in-days", "7"), ("never", "--never-expires"),
    ):  # fmt: skip
        assert run("tokens", "create", name, "--scope", "read", *ends).returncode == 0
    hours = dict(
        postgres.execute(
            "select name, round(extract(epoch from expires_at - created_at) / 3600) from usage.api_access_tokens"
        ).fetchall()
    )
    assert hours.pop("date") > 0
    assert hours == {"days": 90 * 24, "hours": 12, "number": 7 * 24, "never": None}
    at = "select expires_at = '2040-03-01 00:00 UTC' from usage.api_access_tokens where name = 'date'"
    assert postgres.execute(at).fetchone() == (True,)
    assert run("tokens", "list").stdout.count("never") == 2  # its name, and its end


def test_a_date_is_the_first_moment_of_the_day_in_the_time_zone_of_days() -> None:
    vienna, now = ZoneInfo("Europe/Vienna"), datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert expiry_of("2027-07-01", now=now, timezone=vienna) == datetime(2027, 6, 30, 22, tzinfo=UTC)
    assert expiry_of("2026-11-21", now=now, timezone=vienna) == datetime(2026, 11, 20, 23, tzinfo=UTC)
    for wrong in ("2026-11-20", "36501d", "9999-12-31", "20270701", "0d", "-1d", "90", "90 d", "2027-02-30", "999999d"):
        with pytest.raises(Malformed, match="--expires: expected"):
            expiry_of(wrong, now=now, timezone=vienna)


def test_every_page_that_makes_a_token_says_when_it_ends() -> None:
    pages = [PROJECT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("*.py"), *(PROJECT / "deploy").rglob("*.*")]
    pages += (PROJECT / "usage_pipeline").rglob("*.html")
    made = [
        command
        for page in pages
        if page.is_file() and page.suffix in (".md", ".py", ".html", ".yaml", ".sh", ".example")
        for command in re.findall(r"tokens create [a-z]+ --scope[^)<`\n]*", page.read_text())
    ]
    assert len(made) >= 5
    assert [command for command in made if "--expires" not in command and "--never-expires" not in command] == []


def test_revoking_without_redis_is_done_and_says_what_is_left(run: Run, postgres: psycopg.Connection) -> None:
    made = run("tokens", "create", "loader", "--scope", "ingest", "--expires", "90d", "--json")
    token_id = json.loads(made.stdout)["token_id"]
    done = run("tokens", "revoke", token_id, REDIS_URL="redis://:hunter2@127.0.0.1:1")
    assert done.returncode == 1
    assert "is revoked, but Redis does not answer" in done.stderr.replace("\n", " ")
    assert "hunter2" not in done.stderr
    assert postgres.execute("select revoked_at is not null from usage.api_access_tokens").fetchone() == (True,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["create", "x", "--scope", "admin", "--never-expires"],
            "--scope: expected one or more of ingest, read, correct, users, prompts, came admin",
        ),
        (["create", "", "--scope", "read", "--never-expires"], "expected a value, came an empty text"),
        (
            ["create", "x", "--scope", "read", "--expires-in-days", "0"],
            "--expires-in-days: expected 1 to 36500, came 0",
        ),
        (["create", "x", "--scope", "read"], "--expires (such as 90d or 2030-01-31)"),
        (["create", "x", "--scope", "read"], "--never-expires, came none of them"),
        (["create", "x", "--scope", "read", "--expires", "90d", "--never-expires"], "--never-expires, came 2 of them"),
        (["create", "x", "--scope", "read", "--expires", "soon"], "days or hours such as 90d or 12h, or a date"),
        (["create", "x", "--scope", "read", "--expires", "2020-01-01"], "--expires: expected a time to come"),
        (["revoke", "upt_secret"], "expected the id or the prefix of a token"),
    ],
)
def test_what_the_caller_must_mend_is_one_line_and_status_2(run: Run, arguments: list[str], expected: str) -> None:
    done = run("tokens", *arguments)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert expected in line
    assert "upt_secret" not in line
