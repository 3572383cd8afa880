"""Delivery to a real HTTP server that fails, stalls and recovers; no address is ever told."""

import logging
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from usage_pipeline.alerting.sending.channels import known
from usage_pipeline.alerting.sending.couriers import Courier
from usage_pipeline.alerting.sending.messages import Due, Kind, Message
from usage_pipeline_tests.rigs.alerts import Webhook

AT = datetime(2026, 11, 20, 13, tzinfo=UTC)
SECRET = "T0K3N/hunter2"


def message(kind: Kind = "raised", link: str | None = None) -> Message:
    said = ("failed-run", "failure", "Run failed", "Run r1 failed: 3 errors", "Re-execute it", link, "This is over.")
    return Message((Due("x", kind, 7, *said, AT, AT, 2, was_told=True),))  # type: ignore[arg-type]


def send(*urls: str, kind: Kind = "raised", seconds: float = 5.0, link: str | None = None) -> dict[str, str | None]:
    """To all of these and the log. Returns what went wrong with each, by name."""
    there = Courier([SecretStr(url) for url in urls], seconds)
    found = there.send({channel.key: message(kind, link) for channel in there.channels})
    return {channel.name: found[channel.key] for channel in there.channels}


def address(hook: Webhook, scheme: str = "json") -> str:
    return f"{scheme}://user:{SECRET.partition('/')[2]}@127.0.0.1:{hook.port}/{SECRET}"


@pytest.mark.parametrize("scheme", ["json", "http"])
def test_a_message_says_what_happened_and_what_to_do(hook: Webhook, scheme: str) -> None:
    link = "http://127.0.0.1:3000/runs/r1"
    assert send(address(hook, scheme), link=link) == {"log": None, f"1 ({scheme})": None}
    [received] = hook.received
    assert received["title"] == "[usage_pipeline] Run failed"
    assert received["type"] == "failure"
    for part in ("Run r1 failed: 3 errors", "What to do: Re-execute it", "docs/alerts.md#failed-run", link):
        assert part in received["message"]


def test_that_it_is_over_is_said_so(hook: Webhook) -> None:
    send(address(hook), kind="cleared")
    assert hook.titles == ["Cleared: Run failed"]
    assert hook.received[0]["type"] == "success"


def test_without_addresses_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert send() == {"log": None}
    assert "Run r1 failed: 3 errors" in caplog.text


def test_one_channel_that_fails_does_not_keep_the_others_from_it(hook: Webhook) -> None:
    found = send("json://127.0.0.1:1/", address(hook))
    assert [name for name, problem in found.items() if problem] == ["1 (json)"]
    assert len(hook.received) == 1


def test_a_server_that_stalls_is_given_up(hook: Webhook) -> None:
    hook.is_stalling = True
    assert send(address(hook), seconds=0.3)["1 (json)"] == "no answer within 0.3 s"
    assert hook.asked.wait(10)
    hook.is_stalling = False
    hook.let_go.set()
    assert send(address(hook))["1 (json)"] is None


@pytest.mark.parametrize(
    "target",
    [
        "/hook?key=SECRET&api-version=2016-06-01&sig=AbC",
        "/a%2fb/c%20d/%C3%A9?sig=a%2Bb%2f%3D&empty=&q=1+2&-minus=1&+plus=x&:colon=y",
        "/?a=b?c=d&format=text&overflow=split&verify=no&cto=1&rto=2",
        "/path;v=1/(x)/~user/?redirect=http://x/y",
        "/",
    ],
)
def test_an_address_is_called_exactly_as_it_was_given(hook: Webhook, target: str) -> None:
    assert send(f"http://user:p%40ss@127.0.0.1:{hook.port}{target}")["1 (http)"] is None
    assert hook.targets == [target]
    assert hook.authorizations == ["Basic dXNlcjpwQHNz"]
    assert hook.received[0].keys() == {"version", "title", "message", "attachments", "type"}


@pytest.mark.parametrize("status", [204, 301, 302, 400, 401, 404, 500])
def test_only_a_success_counts_as_accepted(hook: Webhook, status: int) -> None:
    hook.status = status
    assert (send(f"http://127.0.0.1:{hook.port}/hook?key=1")["1 (http)"] is None) == (status == 204)
    assert len(hook.targets) == 1, "a redirect is not followed"


def test_a_channel_is_known_by_its_address_wherever_it_stands() -> None:
    a, b = "https://host/hook?key=1", "https://host/hook?key=2"
    first, second = known([SecretStr(a), SecretStr(b)])
    assert first.key != second.key
    assert [one.key for one in known([SecretStr(one) for one in (b, a, b)])] == [second.key, first.key]
    assert "host" not in repr(first) + first.key


@pytest.mark.parametrize("failure", ["refused", "stalled", "nobody there", "no such kind", "plain"])
def test_no_address_is_told_whatever_fails(
    hook: Webhook, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], failure: str
) -> None:
    url = {
        "nobody there": f"json://user:hunter2@127.0.0.1:1/{SECRET}",
        "no such kind": f"nosuch://user:hunter2@127.0.0.1/{SECRET}",
        "plain": address(hook, "http"),
    }.get(failure, address(hook))
    hook.status = 500
    hook.is_stalling = failure == "stalled"
    with caplog.at_level(logging.DEBUG):
        [*_, problem] = send(url, seconds=0.5).values()
        hook.let_go.set()
    assert problem is not None
    said = "".join((caplog.text, problem, *capfd.readouterr()))
    assert "it is tried again" in said
    assert "hunter2" not in said
    assert "T0K3N" not in said
