"""An id is found however its writer spelled it: in dead letters, in conflicts, in landed files, in what Redis packed."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.events.erasure.spellings import Spellings
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import event

SECRET = "my secret question"


def python(members: dict[str, Any]) -> str:
    return json.dumps(members)


def unescaped(members: dict[str, Any]) -> str:
    return json.dumps(members, ensure_ascii=False)


def dot_net(members: dict[str, Any]) -> str:
    """System.Text.Json escapes what HTML could mistake, in upper case."""
    return "".join(
        "".join(f"\\u{ord(unit):04X}" for unit in each) if each in "+&<>'`" else each for each in json.dumps(members)
    )


def php(members: dict[str, Any]) -> str:
    return json.dumps(members).replace("/", "\\/")


def all_escaped(members: dict[str, Any]) -> str:
    """Every letter of the id as an escape: plain JSON, too."""
    who = members["user_id"]
    units = who.encode("utf-16-be").hex()
    spelled = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return json.dumps(members | {"user_id": "<id>"}).replace("<id>", spelled)


WRITERS: list[Callable[[dict[str, Any]], str]] = [python, unescaped, dot_net, php, all_escaped]
IDS = ["bob+test@example.com", "org/alice", "josé", 'zoë🙂 "z" \\', "O'Brien & <sons>"]


@pytest.mark.parametrize("who", IDS)
@pytest.mark.parametrize("write", WRITERS)
def test_refused_and_conflicting_input_and_landed_files_are_found_in_every_spelling(
    who: str,
    write: Callable[[dict[str, Any]], str],
    postgres: psycopg.Connection,
    settings: Settings,
    tmp_path: Path,
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    good = event(user_id=who, prompt=SECRET)
    refused = event(user_id=who, prompt=SECRET, latency_ms=-1)
    conflict = event(event_id=good["event_id"], user_id=who, prompt=SECRET, latency_ms=1)
    written = [write(one) for one in (good, refused, conflict)]
    assert [json.loads(text)["user_id"] for text in written] == [who] * 3
    (tmp_path / "day.jsonl").write_text("".join(f"{one}\n" for one in written))
    (tmp_path / "day.json.gz").write_bytes(gzip.compress(f"[{written[0]}]".encode()))
    for address in ("day.jsonl", "day.json.gz"):
        ingest_file(postgres, Landing(str(tmp_path)), address, settings=there)

    done = erase(there, who)

    assert done.problems == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    for table, column in (("ops.dead_letters", "raw"), ("ops.event_conflicts", "other_payload")):
        [(left,)] = postgres.execute(f"select {column} from {table}").fetchall()
        assert json.loads(left)["user_id"] == done.pseudonym
        assert SECRET.encode() not in left


@pytest.mark.parametrize("written", ["4711", "4711.0", "4.711e3", '"4711"'])
def test_an_id_that_came_as_a_number_is_the_same_id(
    written: str, postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    text = json.dumps(event(user_id="<id>", prompt=SECRET, latency_ms=-1)).replace('"<id>"', written)
    other = json.dumps(event(user_id="47110", prompt=SECRET, latency_ms=4711, input_tokens=-1))
    (tmp_path / "theirs.jsonl").write_text(f"{text}\n")
    (tmp_path / "other.jsonl").write_text(f"{other}\n")
    for address in ("theirs.jsonl", "other.jsonl"):
        ingest_file(postgres, Landing(str(tmp_path)), address, settings=there)
    done = erase(there, "4711")
    assert done.counts == {"ops.dead_letters": 1, "landed:done": 1}
    letters = {bytes(raw) for (raw,) in postgres.execute("select raw from ops.dead_letters").fetchall()}
    assert other.encode() in letters
    [left] = letters - {other.encode()}
    assert json.loads(left)["user_id"] == done.pseudonym
    assert SECRET.encode() not in left


@pytest.mark.parametrize(
    "refused",
    [
        {"user": "nora", "prompt": SECRET},
        {"user_id": None, "who": {"name": "nora"}, "prompt": SECRET},
        {"user_id": ["nora"], "prompt": SECRET},
        {"user_id": {"id": "nora"}, "prompt": SECRET},
        {"team": {"user": "nora"}, "owner": "nora"},
        ["nora", SECRET],
    ],
)
def test_input_without_a_user_id_that_names_the_user_elsewhere_is_theirs(
    refused: Any, postgres: psycopg.Connection, settings: Settings
) -> None:
    add_letter(postgres, json.dumps(refused).encode())
    done = erase(settings, "nora")
    [(left,)] = postgres.execute("select raw from ops.dead_letters").fetchall()
    assert b"nora" not in left
    assert done.counts == {"ops.dead_letters": 1}
    if isinstance(refused, dict):
        assert SECRET.encode() not in left


@pytest.mark.parametrize(
    "refused",
    [
        {"user_id": "omar", "prompt": "nora asked"},
        {"user_id": "omar", "extra": {"friend": "nora"}},
        {"user_id": "Nora"},
        {"api_key_id": "nora"},
        {"user_id": 1, "team": "nora"},
    ],
)
def test_input_of_another_user_stays_as_it_is(refused: Any, postgres: psycopg.Connection, settings: Settings) -> None:
    raw = json.dumps(refused).encode()
    add_letter(postgres, raw)
    assert erase(settings, "nora").counts == {}
    assert postgres.execute("select raw from ops.dead_letters").fetchall() == [(raw,)]


def test_of_two_user_ids_in_one_object_both_are_looked_at(postgres: psycopg.Connection, settings: Settings) -> None:
    add_letter(postgres, b'{"user_id":"nora","user_id":"omar","latency_ms":-1,"prompt":"p"}')
    assert erase(settings, "nora").counts == {"ops.dead_letters": 1}
    [(left,)] = postgres.execute("select raw from ops.dead_letters").fetchall()
    assert json.loads(left) == {"user_id": "omar", "latency_ms": -1}


def test_of_unreadable_input_of_the_user_only_the_pseudonym_stays(
    postgres: psycopg.Connection, settings: Settings
) -> None:
    add_letter(postgres, b'{"user_id": "\\u006Eora", "prompt": "' + SECRET.encode())
    add_letter(postgres, b"no JSON: nora, norah, omar")
    done = erase(settings, "nora")
    left = [bytes(raw) for (raw,) in postgres.execute("select raw from ops.dead_letters order by 1").fetchall()]
    assert left == [
        f"no JSON: {done.pseudonym}, norah, omar".encode(),
        json.dumps({"user_id": done.pseudonym}, separators=(",", ":")).encode(),
    ]


def test_what_redis_packs_in_a_dump_is_found(
    postgres: psycopg.Connection, settings: Settings, redis_client: redis.Redis
) -> None:
    who = "nora.nora.nora.nora@example.com"
    redis_client.rpush("apikey:theirs:metrics", json.dumps({"user_id": who, "note": "abc " * 200}))
    redis_client.rpush("apikey:others:metrics", json.dumps({"user_id": "omar", "note": "abc " * 200}))
    drain_once(settings)
    stored = {bytes(raw) for (raw,) in postgres.execute("select raw from ops.dead_letters").fetchall()}
    assert len(stored) == 2
    assert not any(who.encode() in raw for raw in stored), "Redis packs it"
    assert erase(settings, who).counts == {"ops.dead_letters": 1}
    left = {bytes(raw) for (raw,) in postgres.execute("select raw from ops.dead_letters").fetchall()}
    assert b"" in left
    assert len(left & stored) == 1


def test_an_id_over_the_border_of_two_pieces_of_a_file_is_found(
    postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    (tmp_path / "done").mkdir()
    spelled = "".join(f"\\u{ord(each):04x}" for each in "nora")
    for ahead in range(0, 60, 7):
        (tmp_path / "done" / f"{ahead}.jsonl").write_text(" " * (2**20 - ahead) + f'{{"user_id": "{spelled}"}}')
    assert erase(there, "nora").counts == {"landed:done": 9}


def test_more_waiting_files_than_one_look_lists_are_searched(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.events.landing.faults.MOST_FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_text("{}")
    (tmp_path / "last.jsonl").write_text(json.dumps(event(user_id="nora")))
    done = erase(settings.model_copy(update={"landing_url": str(tmp_path)}), "nora")
    assert [problem.partition(":")[0] for problem in done.problems] == ["last.jsonl"]


def test_a_short_id_is_not_found_in_other_words() -> None:
    one = Spellings("1")
    assert not one.is_quoted_in(b'{"latency_ms": 1, "user_id": "11"}')
    assert one.is_quoted_in(b'{"UserId": 1}')
    assert not Spellings("007").is_quoted_in(b'{"user_id": 7}')


def add_letter(postgres: psycopg.Connection, raw: bytes) -> None:
    postgres.execute(
        "insert into ops.dead_letters (family, source_key, reason, raw, raw_format, claimed_at) "
        "values ('usage_event', 'file', 'expected a usage event, came another', %s, 'string', now())",
        (raw,),
    )
