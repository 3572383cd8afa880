"""`replay --set` and `--unset`: members of members, texts that look like numbers, and what is refused."""

import json
from typing import Any

import msgspec
import pytest

from usage_pipeline.drain.corrections import ANY, Settable, change
from usage_pipeline.values import Malformed
from usage_pipeline_tests.drain.dead_letters.rig import World, landed
from usage_pipeline_tests.rigs.events import event


class Event(msgspec.Struct):
    """Members of the kinds that usage events have (contracts §8.1)."""

    model: str
    usage: dict[str, int | float | None] | None = None
    tags: dict[str, str | None] | None = None
    cost_usd: int | float | str | None = None
    provider_usage: dict[str, Any] | None = None


EVENT = Settable.of(Event)


def changed(value: dict[str, Any], **members: str | None) -> tuple[dict[str, Any], dict[str, str | None]]:
    names = {name.replace("__", "."): text for name, text in members.items()}
    found = change(json.dumps(value).encode(), "string", None, EVENT, names)
    return json.loads(found.raw), found.before


def test_a_member_of_a_member_is_set_alone() -> None:
    usage = {"usage": {"input_tokens": 10_000, "cache_read_tokens": 99_000}, "model": "m"}
    after, before = changed(usage, usage__cache_read_tokens="9000")
    assert after == {"usage": {"input_tokens": 10_000, "cache_read_tokens": 9_000}, "model": "m"}
    assert before == {"usage.cache_read_tokens": "99000"}
    assert changed({}, usage__web_searches="2") == ({"usage": {"web_searches": 2}}, {"usage.web_searches": None})
    assert changed({"usage": None}, usage__web_searches="2")[0] == {"usage": {"web_searches": 2}}
    assert changed(usage, usage__cache_read_tokens=None)[0] == {"usage": {"input_tokens": 10_000}, "model": "m"}
    deep = {"provider_usage": {"prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 2}}}
    after, before = changed(deep, provider_usage__prompt_tokens_details__cached_tokens="9")
    assert after == {"provider_usage": {"prompt_tokens_details": {"cached_tokens": 9, "audio_tokens": 2}}}
    assert before == {"provider_usage.prompt_tokens_details.cached_tokens": "1"}


def test_a_text_stays_one_whatever_it_looks_like() -> None:
    assert changed({}, model="4")[0] == {"model": "4"}
    assert changed({}, model='"4"')[0] == {"model": "4"}
    assert changed({}, model="null")[0] == {"model": None}
    assert changed({}, model="true")[0] == {"model": "true"}
    assert changed({}, tags__project="5", tags__a__b="x")[0] == {"tags": {"project": "5", "a.b": "x"}}
    assert changed({}, cost_usd="0.5")[0] == {"cost_usd": 0.5}
    assert changed({}, cost_usd='"0.5"')[0] == {"cost_usd": "0.5"}


@pytest.mark.parametrize(
    ("value", "members", "expected"),
    [
        ({}, {"modle": "m"}, "expected one of cost_usd, model, "),
        ({}, {"usages__x": "1"}, "expected one of cost_usd, model, "),
        ({}, {"model__x": "1"}, "--set model.x: expected a member that is an object, model is none"),
        ({"usage": 5}, {"usage__x": "1"}, "--set usage.x: expected a JSON object as usage, came '5'"),
        ({}, {"model": None}, "--unset: expected a member that is there, came model"),
    ],
)
def test_what_cannot_be_set_is_told(value: dict[str, Any], members: dict[str, str | None], expected: str) -> None:
    with pytest.raises(Malformed) as refused:
        changed(value, **members)
    assert expected in str(refused.value)


def test_a_name_with_a_dot_that_is_there_is_that_member() -> None:
    found = change(b'{"a.b": 1, "a": {"b": 2}}', "string", None, ANY, {"a.b": "3"})
    assert json.loads(found.raw) == {"a.b": 3, "a": {"b": 2}}


def test_of_one_member_alone_nothing_can_be_taken_away() -> None:
    with pytest.raises(Malformed, match="Discard it"):
        change(b"*2\r\n$1\r\na\r\n$1\r\n1\r\n", "hash", "a", ANY, {"a": None})


def test_a_landed_event_gets_members_of_members_and_the_correction_is_kept(world: World) -> None:
    landed(event(team=..., toatl_tokens=1, extra={"note": {"a": 1}}))(world)
    [number] = world.states()
    alone = ("--unset", "toatl_tokens", "--reason", "a typo of the sender")
    [refused] = world.run("replay", str(number), *alone, "--json").document["refused"]
    assert "missing required field `team`" in refused["reason"]
    changes = ("--set", "team=42", "--set", "extra.note.b=2", "--set", "extra.why=late")
    answer = world.run("replay", str(number), *changes, *alone)
    assert answer.status == 0, answer
    assert world.query("select team, extra from analytics.usage_events") == [
        ("42", {"note": {"a": 1, "b": 2}, "why": "late"})
    ]
    assert world.query("select reason, before, after from ops.corrections") == [
        (
            "a typo of the sender",
            {"team": None, "extra.note.b": None, "extra.why": None, "toatl_tokens": "1"},
            {"team": "42", "extra.note.b": "2", "extra.why": "late", "toatl_tokens": None},
        )
    ]
