"""An erasure also reaches refused members, whose dead letters name no user, and what people put right by hand."""

import json
import uuid
from datetime import UTC, datetime

import psycopg
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.commands import Run

WHO = 'zoë+7/o"hara@x.org'
SECRET = "my secret question"
AT = datetime.now(UTC)


def request(user_id: str, **changes: object) -> str:
    members = {
        "event_id": str(uuid.uuid4()),
        "api_key_id": "k",
        "user_id": user_id,
        "provider": "s3",
        "event_type": "upload",
        "file_size": 1,
        "status": "success",
        "at": AT.isoformat(),
    }
    return json.dumps(members | changes)


def test_free_text_in_dead_letters_of_members_goes_with_the_user_and_stays_for_others(
    postgres: psycopg.Connection, settings: Settings, redis_client: redis.Redis
) -> None:
    for user, key in ((WHO, "hers"), ("omar", "his")):
        redis_client.rpush("event_queue", request(user, note=f"{SECRET} \0"), request(user, at=17))
        redis_client.hset(
            f"provider:{key}:s3:metrics",
            mapping={"user_id": user, "upload_count": "1.5", "total_file_size": 7, "note": SECRET.encode() + b"\xff"},
        )
    assert drain_once(settings).dead_letters == 8
    done = erase(settings, WHO)
    assert done.counts["ops.dead_letters"] == 2
    letters = postgres.execute("select member, raw from ops.dead_letters").fetchall()
    assert len(letters) == 8
    # Those of omar.
    assert sorted(member for member, raw in letters if SECRET.encode() in raw) == ["note", "note"]
    assert sorted(member for member, raw in letters if b"1.5" in raw) == ["upload_count"] * 2


def test_corrections_keep_neither_the_id_nor_what_the_user_wrote(
    postgres: psycopg.Connection, settings: Settings, redis_client: redis.Redis, run: Run
) -> None:
    redis_client.rpush("event_queue", request(WHO, file_size="x", note="a"), request("omar", file_size="y", note="b"))
    redis_client.hset("provider:k:s3:metrics", mapping={"user_id": b"\xff", "upload_count": 1})
    drain_once(settings)
    for number, family, raw in postgres.execute("select dead_letter_id, family, raw from ops.dead_letters").fetchall():
        sets = [f"user_id={WHO}"]
        if family == "event":
            user = json.loads(raw)["user_id"]
            sets = ["file_size=5", f"note={SECRET}", f"user_id={json.dumps(user)}"]
        arguments = [part for each in sets for part in ("--set", each)]
        replayed = run("dead-letters", "replay", number, *arguments, "--reason", f"{WHO} asked for it")
        assert replayed.returncode == 0, replayed.stderr
    done = erase(settings, WHO)
    assert done.counts["ops.corrections"] == 3
    corrections = postgres.execute(
        "select reason, before, after from ops.corrections order by correction_id"
    ).fetchall()
    assert len(corrections) == 3
    assert WHO not in str(corrections)
    assert json.dumps(WHO) not in str(corrections)
    assert sorted(after["note"] for _, _, after in corrections if "note" in after) == [
        "a value that was erased",
        SECRET,
    ]
    assert sorted(after.get("file_size", "") for _, _, after in corrections) == ["", "5", "5"]
    assert all(reason == f"{done.pseudonym} asked for it" for reason, _, _ in corrections)
    again = erase(settings, WHO)
    assert "ops.corrections" not in again.counts


def test_reasons_of_discards_keep_no_id_and_stay_for_the_rest(
    postgres: psycopg.Connection, settings: Settings, redis_client: redis.Redis, run: Run
) -> None:
    redis_client.rpush("event_queue", *["{bad"] * 3)
    drain_once(settings)
    for number, reason in ((1, f"a test of {WHO}"), (2, f"a test of {WHO}"), (3, "a test of omar")):
        assert run("dead-letters", "discard", number, "--reason", reason).returncode == 0
    done = erase(settings, WHO)
    assert done.counts["ops.dead_letters"] == 2
    reasons = postgres.execute("select discard_reason from ops.dead_letters order by dead_letter_id").fetchall()
    assert reasons == [(f"a test of {done.pseudonym}",)] * 2 + [("a test of omar",)]
