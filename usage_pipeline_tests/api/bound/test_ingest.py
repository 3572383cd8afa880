"""What a bound sender sends: only its own is stored, and the id of another's event is as good as a free one."""

import gzip
import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline_tests.api.bound.senders import Senders, counts
from usage_pipeline_tests.api.ingest.test_otlp import ENCODINGS, partial_success, sent
from usage_pipeline_tests.events.formats.recorded import payload
from usage_pipeline_tests.events.otlp.spans import CHAT, SERVICE, request_of
from usage_pipeline_tests.rigs.events import NOW, archive, event
from usage_pipeline_tests.rigs.service import ARCHIVES_PATH, CLOUDEVENTS_PATH, EVENTS_PATH, LITELLM_PATH

NEW, AGAIN, OTHER = (1, 0, 0), (0, 1, 0), (0, 0, 1)


def rows(postgres: psycopg.Connection, columns: str = "team, model") -> list[tuple[Any, ...]]:
    return postgres.execute(f"select {columns} from analytics.usage_events order by {columns}").fetchall()


@pytest.mark.parametrize("member", ["team", "service", "user_id"])
def test_what_is_not_said_is_the_first_value_and_what_is_anothers_is_refused_by_its_index(
    senders: Senders, postgres: psycopg.Connection, member: str
) -> None:
    kept = ["mine", "ours"]
    sender = senders.new(
        *(kept if member == "team" else ()),
        services=kept if member == "service" else (),
        users=kept if member == "user_id" else (),
    )
    said: list[Any] = [..., None, "", "unknown", "ours", "theirs", "Mine", "mine "]
    answer = sender.send(*(event(**{member: value}) for value in said))
    assert (answer["received"], answer["inserted"]) == (8, 5)
    assert [one["index"] for one in answer["rejected"]] == [5, 6, 7]
    assert answer["rejected"][0]["reason"] == f"{member}: expected one that this token is bound to, came 'theirs'"
    assert rows(postgres, member) == [("mine",)] * 4 + [("ours",)]


def test_what_is_not_said_may_be_written_with_escapes(senders: Senders, postgres: psycopg.Connection) -> None:
    one = json.dumps(event(team="unknown")).replace('"unknown"', '"\\u0075n\\u006bnown"')
    broken = json.dumps(event(team="unknown")).replace('"unknown"', '"\\ud800"')
    answer = senders.new("a").client.post(
        EVENTS_PATH, content=f"[{one},{broken}]", headers={"Content-Type": "application/json"}
    )
    assert [rejected["index"] for rejected in answer.json()["rejected"]] == [1]
    assert rows(postgres, "team") == [("a",)]


def test_each_kind_of_value_is_required(senders: Senders, postgres: psycopg.Connection) -> None:
    sender = senders.new("a", services=["s"], users=["u"])
    mine = {"team": "a", "service": "s", "user_id": "u"}
    answer = sender.send(
        *(event(**mine | change) for change in ({}, {"team": "b"}, {"service": "t"}, {"user_id": "v"}))
    )
    assert [one["index"] for one in answer["rejected"]] == [1, 2, 3]
    assert rows(postgres, "team, service, user_id") == [("a", "s", "u")]


def test_a_member_that_comes_twice_gets_nobody_out(senders: Senders, postgres: psycopg.Connection) -> None:
    sender = senders.new("a")
    one = json.dumps(event(team="a"))
    twice = [one[:-1] + ', "team": "b"}', one.replace('"team": "a"', '"team": "b", "team": "a"')]
    large = json.dumps(event(team="a", prompt="p" * 100_000))[:-1] + ', "team": "b"}'
    content = f"[{','.join([*twice, large])}]"
    answer = sender.client.post(EVENTS_PATH, content=content, headers={"Content-Type": "application/json"}).json()
    assert [each["index"] for each in answer["rejected"]] == [0, 2]
    assert rows(postgres, "team") == [("a",)]


def test_large_items_are_filled_as_well(senders: Senders, postgres: psycopg.Connection) -> None:
    sender = senders.new("a", users=["u"])
    mine = event(team=..., user_id=None, prompt="é" * 900_000)
    assert counts(sender.send(mine)) == NEW
    assert rows(postgres, "team, user_id") == [("a", "u")]
    texts = {"prompt_full": "é" * 3_000_000, "response_full": "r" * 10}
    whole = archive(mine["event_id"], user_id="unknown", **texts)
    packed = gzip.compress(json.dumps([whole]).encode(), 1)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert counts(sender.client.post(ARCHIVES_PATH, content=packed, headers=headers).json()) == NEW
    assert postgres.execute("select user_id from analytics.message_archives").fetchall() == [("u",)]


@ENCODINGS
def test_spans_get_what_they_do_not_say_and_those_of_others_are_a_partial_success(
    senders: Senders, postgres: psycopg.Connection, is_json: bool
) -> None:
    sender = senders.new("search", "ads")
    silent, theirs = request_of(CHAT, resource={"service.name": "x"}), request_of(CHAT, resource={"team": "hr"})
    assert partial_success(sent(sender.client, silent, is_json), is_json) == (0, "")
    number, message = partial_success(sent(sender.client, theirs, is_json), is_json)
    assert number == 1
    assert "team: expected one that this token is bound to, came 'hr'" in message
    mine = request_of(CHAT, resource=SERVICE)
    for _ in range(2):
        assert partial_success(sent(sender.client, mine, is_json), is_json) == (0, "")
    assert rows(postgres, "team, service") == [("search", "assistant"), ("search", "x")]


def test_litellm_and_cloudevents_get_what_they_do_not_say(senders: Senders, postgres: psycopg.Connection) -> None:
    sender = senders.new("red", users=["zoe"])
    cloud = {
        "specversion": "1.0",
        "id": "1",
        "source": "/x",
        "type": "t",
        "data": event(event_id=..., team=..., user_id=...),
    }
    types = {"Content-Type": "application/cloudevents+json"}
    assert counts(sender.client.post(CLOUDEVENTS_PATH, json=cloud, headers=types).json()) == NEW
    known = payload("success")
    known["metadata"] = {}
    known |= {"end_user": "zoe", "model_parameters": {}}
    assert counts(sender.client.post(LITELLM_PATH, json=[known]).json()) == NEW
    assert rows(postgres, "team, user_id") == [("red", "zoe")] * 2
    known["metadata"] = {"user_api_key_team_alias": "blue"}
    refused = sender.client.post(LITELLM_PATH, json=[known]).json()
    assert refused["rejected"] == [
        {"index": 0, "reason": "team: expected one that this token is bound to, came 'blue'"}
    ]


@pytest.mark.parametrize("known_id", [None, "chatcmpl-1"])
def test_the_same_id_from_two_bound_senders_shows_neither_what_the_other_sent(
    senders: Senders, postgres: psycopg.Connection, known_id: str | None
) -> None:
    one = event(team="a") if known_id is None else event(team="a", event_id=known_id)
    a, b = senders.new("a"), senders.new("b")
    other = one | {"team": "b", "model": "b-1"}
    for sender, mine in ((a, one), (b, other)):
        assert counts(sender.send(mine)) == NEW
    for sender, mine in ((b, other), (a, one)):
        assert counts(sender.send(mine)) == AGAIN
        assert counts(sender.send(mine, mine)) == (0, 2, 0)
        assert counts(sender.send(mine | {"input_tokens": 7})) == OTHER
        assert counts(sender.archive(archive(mine["event_id"]))) == NEW
        assert counts(sender.archive(archive(mine["event_id"]))) == AGAIN
        assert counts(sender.archive(archive(mine["event_id"], prompt_full="other"))) == OTHER
    assert rows(postgres) == [("a", "gpt-4o"), ("b", "b-1")]
    assert len(set(rows(postgres, "event_id"))) == 2


def test_one_batch_may_have_ids_of_others_twice_and_new_ones(senders: Senders, postgres: psycopg.Connection) -> None:
    a, b = senders.new("a"), senders.new("b")
    theirs = [event(team="a") for _ in range(5)]
    assert counts(a.send(*theirs)) == (5, 0, 0)
    mine = [one | {"team": "b"} for one in theirs]
    changed = mine[0] | {"model": "other"}
    assert counts(b.send(event(team="b"), *mine, mine[1], changed)) == (6, 1, 1)
    assert counts(b.send(*mine, changed)) == (0, 5, 1)
    assert len(rows(postgres)) == 11


def test_who_is_not_bound_sees_every_event_and_so_gets_a_conflict(senders: Senders) -> None:
    bound, free = senders.new("a"), senders.new()
    mine = event(team="a")
    assert counts(bound.send(mine)) == NEW
    assert counts(free.send(mine)) == AGAIN
    assert counts(free.send(mine | {"team": "b"})) == OTHER


def test_an_event_of_its_team_is_its_own_whoever_sent_it(senders: Senders) -> None:
    bound, free = senders.new("a"), senders.new()
    theirs, ours = event(team="b"), event(team="a")
    assert counts(free.send(theirs, ours)) == (2, 0, 0)
    assert counts(bound.send(ours)) == AGAIN
    assert counts(bound.send(ours | {"model": "other"})) == OTHER
    assert counts(bound.send(theirs | {"team": "a"})) == NEW


def test_another_binding_finds_what_was_sent_before_it_changed(senders: Senders, postgres: psycopg.Connection) -> None:
    mine = event(team="a")
    assert counts(senders.new("a").send(mine)) == NEW
    wider = senders.new("b", "a")
    assert counts(wider.send(mine)) == AGAIN
    assert counts(wider.send(mine | {"model": "other"})) == OTHER
    assert counts(senders.new("a", services=["chat"]).send(mine)) == AGAIN
    assert len(rows(postgres)) == 1


def test_an_archive_for_an_event_of_another_is_one_for_an_unknown_event(
    senders: Senders, postgres: psycopg.Connection
) -> None:
    a, b = senders.new("a"), senders.new("b")
    theirs = event(team="a")
    a.send(theirs)
    a.archive(archive(theirs["event_id"]))
    never = event()["event_id"]
    answer = b.archive(archive(theirs["event_id"]), archive(never))
    reasons = [one["reason"] for one in answer["rejected"]]
    assert answer["inserted"] == answer["conflicts"] == answer["duplicates"] == 0
    assert reasons[0].replace(theirs["event_id"], never) == reasons[1]
    assert postgres.execute("select count(*) from ops.event_conflicts").fetchone() == (0,)
    user = senders.new(users=["user-1"])
    [refused] = user.archive(archive(theirs["event_id"], user_id="user-2"))["rejected"]
    assert refused["reason"] == "user_id: expected one that this token is bound to, came 'user-2'"


def test_what_is_in_an_archive_file_or_gone_is_known_to_whoever_sent_it_and_to_nobody_else(
    senders: Senders, postgres: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    a, b, free = senders.new("a"), senders.new("b"), senders.new()
    old = (NOW - timedelta(days=20)).isoformat()
    first, second = event(team="a", event_time=old), event(team="b", event_time=old)
    assert counts(a.send(first)) == NEW
    assert counts(b.send(first | {"team": "b"})) == NEW
    assert counts(free.send(second)) == NEW
    postgres.execute("delete from ops.touched_windows")
    postgres.execute("update ops.touched_days set rolled_version = version")
    there = settings.model_copy(update={"archive_url": str(tmp_path)})
    run_lifecycle(there)
    assert rows(postgres) == []
    for sender, mine in ((a, first), (b, first | {"team": "b"})):
        assert counts(sender.send(mine)) == AGAIN
        assert counts(sender.send(mine | {"model": "other"})) == OTHER
        assert counts(sender.archive(archive(mine["event_id"]))) == NEW
        assert counts(sender.archive(archive(mine["event_id"]))) == AGAIN
    # By its hash.
    assert counts(b.send(second)) == AGAIN
    [refused] = senders.new("c").archive(archive(second["event_id"]))["rejected"]
    assert "expected the id of a stored event" in refused["reason"]
    assert counts(senders.new("c").send(first | {"team": "c"})) == NEW


def test_what_was_kept_apart_is_found_when_the_event_of_the_other_is_gone(
    senders: Senders, postgres: psycopg.Connection
) -> None:
    a, b = senders.new("a"), senders.new("b")
    one = event(team="a")
    assert counts(a.send(one)) == counts(b.send(one | {"team": "b"})) == NEW
    # As at the end of the retention.
    postgres.execute("delete from analytics.usage_event_ids where event_id = %s", (one["event_id"],))
    postgres.execute("delete from analytics.usage_events where event_id = %s", (one["event_id"],))
    assert counts(b.send(one | {"team": "b"}, event(team="b"))) == (1, 1, 0)
    assert counts(b.send(one | {"team": "b", "model": "other"})) == OTHER
    assert counts(b.archive(archive(one["event_id"]))) == NEW


def test_senders_of_the_same_ids_at_once_neither_block_nor_double(
    senders: Senders, postgres: psycopg.Connection
) -> None:
    teams = ("a", "b", "c", "d")
    many = [event() for _ in range(200)]
    known = {(team, number): senders.new(team) for team in teams for number in (False, True)}
    begin = threading.Barrier(2 * len(teams))
    answers: list[tuple[str, tuple[int, int, int]]] = []

    def work(team: str, is_backwards: bool) -> None:
        sender = known[team, is_backwards]
        mine = [one | {"team": team} for one in many]
        begin.wait(60)
        for _ in range(3):
            response = sender.client.post(EVENTS_PATH, json=mine[::-1] if is_backwards else mine)
            if response.status_code == 503:
                continue  # by what it says, it is sent again
            answers.append((team, counts(response.json())))

    threads = [threading.Thread(target=work, args=(team, number)) for team, number in known]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answers) >= 2 * len(teams)
    assert postgres.execute("select team, count(*) from analytics.usage_events group by 1 order by 1").fetchall() == [
        (team, 200) for team in teams
    ]
    for team in teams:
        assert sum(each[0] for name, each in answers if name == team) == 200
        assert sum(each[2] for name, each in answers if name == team) == 0
