"""What is made up costs PostgreSQL little: unknown cookies, codes and names wait in the same line as unknown tokens."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from usage_pipeline.access.invitations import Person, invite, let_in_by_proxy
from usage_pipeline.access.lookups import TokenLookups
from usage_pipeline.access.sessions import InvitationOver, Sessions


class Database:
    """Connections to a real one, counted."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = 0
        self.in_hand = self.most_in_hand = 0

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        self.asked += 1
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                yield connection
        finally:
            self.in_hand -= 1


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


async def test_the_same_unknown_one_is_looked_for_once_a_second(database: Database) -> None:
    now = [50.0]
    sessions = Sessions(database.connect, TokenLookups(1, timer=lambda: now[0]))
    cookie, code = "ups_" + "A" * 43, "upi_" + "A" * 43
    for ask in (
        lambda: sessions.find(cookie),
        lambda: sessions.find_person("nobody"),
        lambda: sessions.accept(code),
    ):
        before = database.asked
        assert set(await asyncio.gather(*(ask() for _ in range(50)))) == {None}
        assert database.asked == before + 1
    # It is the one cookie that was looked for just now.
    assert await sessions.close(cookie) is False
    assert database.asked == 3
    now[0] += 1.1
    assert await sessions.find(cookie) is None
    assert database.asked == 4


async def test_unknown_ones_of_all_kinds_share_the_places(database: Database) -> None:
    sessions = Sessions(database.connect, TokenLookups(2))
    made_up = [sessions.find(f"ups_{number:043}") for number in range(15)]
    codes = [sessions.accept(f"upi_{number:043}") for number in range(15)]
    names = [sessions.find_person(f"nobody {number}") for number in range(15)]
    assert set(await asyncio.gather(*made_up, *codes, *names)) == {None}
    assert database.most_in_hand <= 2


async def test_what_has_not_the_form_of_a_secret_is_not_looked_for(database: Database) -> None:
    sessions = Sessions(database.connect, TokenLookups(1))
    for text in (
        "",
        "x",
        "ups_",
        "ups_" + "A" * 42,
        "ups_" + "A" * 44,
        "upi_" + "A" * 43,
        "ups_" + "é" * 43,
        "ups_" + "A" * 43 + "\n",
    ):
        assert await sessions.find(text) is None
        assert await sessions.close(text) is False
    for text in ("", "upi_x", "ups_" + "A" * 43, "upt_0123456789ab_" + "A" * 43):
        assert await sessions.accept(text) is None
    assert database.asked == 0


async def test_who_is_known_is_found_and_an_invitation_is_used_once(
    database: Database, postgres: psycopg.Connection
) -> None:
    sessions = Sessions(database.connect, TokenLookups(1))
    let_in_by_proxy(postgres, Person("ada"))
    found = await sessions.find_person("ada")
    assert found is not None
    assert (found.name, found.scopes, found.binding) == ("ada", ("read", "users"), None)
    code = invite(postgres, Person("eve")).code
    cookie = await sessions.accept(code)
    assert cookie is not None
    with pytest.raises(InvitationOver):
        await sessions.accept(code)
    signed_in = await sessions.find(cookie)
    assert signed_in is not None
    assert signed_in.name == "eve"
    assert cookie not in repr(signed_in)
    assert await sessions.close(cookie) is True
    assert await sessions.find(cookie) is None
