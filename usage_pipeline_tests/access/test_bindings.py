"""Tokens that are bound to teams, services or users: made, listed, cached."""

import json
import time

import msgspec
import psycopg
import pytest

from usage_pipeline.access.signed_copies import MOST_BYTES, signed_copy, token_of
from usage_pipeline.access.tokens import AccessToken, create_token, find_token
from usage_pipeline.bindings import MAX_VALUES, Binding, Bounds
from usage_pipeline.values import MAX_ID_CHARACTERS, Malformed
from usage_pipeline_tests.rigs.commands import Run

KEY = b"k" * 32


def found(postgres: psycopg.Connection, *bounds: list[str]) -> AccessToken:
    made = create_token(postgres, "bound", ["read"], bounds=Bounds.of(*bounds))
    token = find_token(postgres, made.token_prefix)
    assert token is not None
    return token


def binding_of(token: AccessToken) -> Binding:
    assert token.binding is not None
    return token.binding


def test_a_token_is_bound_and_listed_with_what_it_is_bound_to(run: Run) -> None:
    bound = ("--team", "search", "--team", "ads", "--service", "chat", "--user", "zoë", "--team", "search")
    made = run("tokens", "create", "mine", "--scope", "read", "--never-expires", *bound)
    assert made.returncode == 0, made.stderr
    assert run("tokens", "create", "free", "--scope", "read", "--never-expires").returncode == 0
    mine, free = json.loads(run("tokens", "list", "--json").stdout)["tokens"]
    assert (mine["teams"], mine["services"], mine["users"]) == (["search", "ads"], ["chat"], ["zoë"])
    assert (free["teams"], free["services"], free["users"]) == ([], [], [])
    shown = " ".join(run("tokens", "list", COLUMNS="300").stdout.split())
    assert "bound to" in shown
    assert "team search or ads, service chat, user zoë" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--team", "unknown"], "--team: expected a name, came unknown"),
        (["--team", "x" * 201], "--team: expected 1 to 200 characters, came 201"),
        (
            [part for n in range(MAX_VALUES + 1) for part in ("--user", f"u{n}")],
            "at most 100 values together, came 101",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(run: Run, arguments: list[str], expected: str) -> None:
    refused = run("tokens", "create", "x", "--scope", "read", "--never-expires", *arguments)
    assert refused.returncode == 2
    assert expected in " ".join(refused.stderr.split())


def test_a_value_is_a_text_that_an_event_can_have() -> None:
    for wrong in ("", "a\0b"):
        with pytest.raises(Malformed, match="--service: expected"):
            Bounds.of([], [wrong], [])


def test_tokens_with_the_same_values_in_any_order_share_a_binding(postgres: psycopg.Connection) -> None:
    first, same = (binding_of(found(postgres, teams, [], [])) for teams in (["a", "b"], ["b", "a"]))
    assert same.binding_id == first.binding_id
    assert (first.bounds.teams, same.bounds.teams) == (("a", "b"), ("b", "a"))
    others = [found(postgres, *each) for each in (([], ["a", "b"], []), (["a"], [], []), (["a", "b"], [], ["u"]))]
    assert len({first.binding_id, *(binding_of(other).binding_id for other in others)}) == 4
    made = create_token(postgres, "free", ["read"])
    free = find_token(postgres, made.token_prefix)
    assert free is not None
    assert free.binding is None


def test_a_cached_copy_says_what_the_token_is_bound_to(postgres: psycopg.Connection) -> None:
    token = found(postgres, ["a"], ["s", "t"], ["u"])
    copy = signed_copy(token, KEY, valid_until=time.time() + 60)
    assert token_of(copy, KEY, token.token_prefix, now=time.time()) == token


def test_a_copy_of_a_version_that_knew_no_bindings_is_none_of_a_token_that_is_not_bound(
    postgres: psycopg.Connection,
) -> None:
    token = found(postgres, ["a"], [], [])
    # What that version has written, with its own fields and with a true signature.
    fields = [name for name in AccessToken.__dataclass_fields__ if name != "binding"]
    known = msgspec.defstruct("Known", fields)
    old = known(**{name: getattr(token, name) for name in fields})
    copy = signed_copy(old, KEY, valid_until=time.time() + 60)
    assert token_of(copy, KEY, token.token_prefix, now=time.time()) is None


def test_the_longest_binding_is_cached_as_well(postgres: psycopg.Connection) -> None:
    longest = [f"{number:03}" + "\1" * (MAX_ID_CHARACTERS - 3) for number in range(MAX_VALUES)]
    token = found(postgres, longest, [], [])
    copy = signed_copy(token, KEY, valid_until=time.time() + 60)
    assert len(copy) <= MOST_BYTES
    assert token_of(copy, KEY, token.token_prefix, now=time.time()) == token
