"""Delivery to a real HTTP server that fails, stalls and recovers; no address is ever told."""

import logging
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from usage_pipeline.alerting.delivery import Courier
from usage_pipeline.alerting.record import Kind, Message
from usage_pipeline_tests.rigs.alerts import Webhook

AT = datetime(2026, 11, 20, 13, tzinfo=UTC)
SECRET = "T0K3N/hunter2"


def message(kind: Kind = "raised", delivered_to: tuple[str, ...] = ()) -> Message:
    said = ("failed-run", "failure", "Run failed", "Run r1 failed: 3 errors", "Re-execute it")
    return Message(7, kind, *said, AT, AT, 2, delivered_to)  # type: ignore[arg-type]


def courier(*urls: str, seconds: float = 5.0) -> Courier:
    return Courier([SecretStr(url) for url in urls], seconds)


def address(hook: Webhook, scheme: str = "json") -> str:
    return f"{scheme}://user:{SECRET.partition('/')[2]}@127.0.0.1:{hook.port}/{SECRET}"


@pytest.mark.parametrize("scheme", ["json", "http"])
def test_a_message_says_what_happened_and_what_to_do(hook: Webhook, scheme: str) -> None:
    outcome = courier(address(hook, scheme)).send(message())
    assert (outcome.accepted, outcome.error) == ((f"1 ({scheme})",), None)
    [received] = hook.received
    assert received["title"] == "[usage_pipeline] Run failed"
    assert received["type"] == "failure"
    for part in ("Run r1 failed: 3 errors", "What to do: Re-execute it", "docs/alerts.md#failed-run"):
        assert part in received["message"]


def test_that_it_is_over_is_said_so(hook: Webhook) -> None:
    courier(address(hook)).send(message("cleared"))
    assert hook.titles == ["Cleared: Run failed"]
    assert hook.received[0]["type"] == "success"


def test_without_addresses_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        outcome = courier().send(message())
    assert (outcome.accepted, outcome.error) == (("log",), None)
    assert "Run r1 failed: 3 errors" in caplog.text


def test_one_channel_that_fails_does_not_keep_the_others_from_it(hook: Webhook) -> None:
    outcome = courier("json://127.0.0.1:1/", address(hook)).send(message())
    assert outcome.accepted == ("2 (json)",)
    assert outcome.error is not None
    assert outcome.error.startswith("1 (json): ")
    assert len(hook.received) == 1


def test_a_channel_that_has_the_message_is_left_out(hook: Webhook) -> None:
    outcome = courier(address(hook)).send(message(delivered_to=("1 (json)",)))
    assert (outcome.accepted, outcome.error, hook.received) == ((), None, [])


def test_a_server_that_stalls_is_given_up_and_not_asked_again_by_this_evaluation(hook: Webhook) -> None:
    hook.is_stalling = True
    stalling = courier(address(hook), seconds=0.3)
    outcome = stalling.send(message())
    assert (outcome.accepted, outcome.error) == ((), "1 (json): no answer within 0.3 s")
    assert hook.asked.wait(10)
    hook.asked.clear()
    assert stalling.send(message()).error == "1 (json): no answer within 0.3 s"
    assert not hook.asked.is_set()
    hook.is_stalling = False
    hook.let_go.set()
    assert courier(address(hook)).send(message()).error is None


@pytest.mark.parametrize("failure", ["refused", "stalled", "nobody there", "no such kind"])
def test_no_address_is_told_whatever_fails(
    hook: Webhook, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], failure: str
) -> None:
    url = {
        "nobody there": f"json://user:hunter2@127.0.0.1:1/{SECRET}",
        "no such kind": f"nosuch://user:hunter2@127.0.0.1/{SECRET}",
    }.get(failure, address(hook))
    hook.status = 500
    hook.is_stalling = failure == "stalled"
    with caplog.at_level(logging.DEBUG):
        outcome = courier(url, seconds=0.5).send(message())
        hook.let_go.set()
    assert outcome.accepted == ()
    said = "".join((caplog.text, str(outcome.error), *capfd.readouterr()))
    assert "it is tried again" in said
    assert "hunter2" not in said
    assert "T0K3N" not in said
