"""What a bound corrector may put right: events that it may see, and nothing leaves its binding."""

import psycopg
import pytest

from usage_pipeline_tests.api.bound.senders import Senders, counts
from usage_pipeline_tests.rigs.events import event


def void(event_id: str) -> dict[str, str]:
    return {"action": "void", "event_id": event_id, "reason": "sent by a load test"}


def replace(by: dict[str, object]) -> dict[str, object]:
    return {"action": "replace", "event": by, "reason": "characters, not tokens"}


def rows(postgres: psycopg.Connection) -> list[tuple[str, int]]:
    return postgres.execute("select team, input_tokens from analytics.usage_events order by 1, 2").fetchall()


@pytest.mark.parametrize("is_voided", [False, True])
def test_an_event_of_another_is_refused_like_one_that_is_not_there(
    senders: Senders, postgres: psycopg.Connection, is_voided: bool
) -> None:
    a, b = senders.new("a"), senders.new("b")
    theirs, never = event(team="a"), event(team="a")["event_id"]
    assert counts(a.send(theirs)) == (1, 0, 0)
    if is_voided:
        assert a.correct(void(theirs["event_id"]))["corrected"] == 1
    answer = b.correct(void(theirs["event_id"]), void(never), replace(theirs | {"team": "b"}), replace(theirs))
    reasons = [one["reason"].replace(theirs["event_id"], never) for one in answer["rejected"]]
    unknown = f"event_id: expected the id of a stored event, came {never}"
    assert reasons == [*[unknown] * 3, "team: expected one that this token is bound to, came 'a'"]
    assert (answer["corrected"], answer["already"]) == (0, 0)
    assert rows(postgres) == ([] if is_voided else [("a", 100)])
    assert postgres.execute("select count(*) from ops.corrections").fetchone() == (int(is_voided),)


def test_of_two_events_with_the_same_id_each_corrects_its_own(senders: Senders, postgres: psycopg.Connection) -> None:
    a, b = senders.new("a"), senders.new("b")
    one = event(team="a")
    for sender, team in ((a, "a"), (b, "b")):
        assert counts(sender.send(one | {"team": team})) == (1, 0, 0)
    silent = {name: value for name, value in one.items() if name != "team"}
    assert b.correct(replace(silent | {"input_tokens": 7}))["corrected"] == 1
    assert b.correct(replace(silent | {"input_tokens": 7}))["already"] == 1
    assert rows(postgres) == [("a", 100), ("b", 7)]
    assert counts(b.send(one | {"team": "b"})) == (0, 1, 0)
    assert b.correct(void(one["event_id"]))["corrected"] == 1
    assert b.correct(void(one["event_id"]))["already"] == 1
    assert rows(postgres) == [("a", 100)]
    assert counts(b.send(one | {"team": "b"})) == (0, 1, 0)
    assert a.correct(void(one["event_id"]))["corrected"] == 1


def test_an_event_moves_within_the_binding_and_never_out_of_it(senders: Senders, postgres: psycopg.Connection) -> None:
    sender = senders.new("a", "b")
    mine = event(team="a")
    sender.send(mine)
    assert sender.correct(replace(mine | {"team": "b"}))["corrected"] == 1
    [refused] = sender.correct(replace(mine | {"team": "c"}))["rejected"]
    assert refused["reason"] == "team: expected one that this token is bound to, came 'c'"
    assert rows(postgres) == [("b", 100)]


def test_what_was_given_to_another_team_is_out_of_reach(senders: Senders, postgres: psycopg.Connection) -> None:
    sender, free = senders.new("a"), senders.new()
    mine = event(team="a")
    sender.send(mine)
    assert free.correct(replace(mine | {"team": "b"}))["corrected"] == 1
    [refused] = sender.correct(void(mine["event_id"]))["rejected"]
    assert "expected the id of a stored event" in refused["reason"]
    # It knows what it sent, and it counts once.
    assert counts(sender.send(mine)) == (0, 1, 0)
    assert counts(sender.send(mine | {"model": "other"})) == (0, 0, 1)
    assert rows(postgres) == [("b", 100)]
