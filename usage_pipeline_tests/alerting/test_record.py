"""The record on a real PostgreSQL: cool-down, recurrence, growth, ends, people, and evaluators that work at the same time."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from usage_pipeline.alerting import record
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.rules import Judgement
from usage_pipeline.alerting.sending import due
from usage_pipeline.alerting.sending.channels import Channel
from usage_pipeline.alerting.sending.dispatch import send_due
from usage_pipeline.alerting.sending.messages import Message, titled
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import age
from usage_pipeline_tests.rigs.alerts import alert as alert_of

RULES = frozenset({"long-run", "dead-letters", "budget"})


def alert(key: str = "a", rule: str = "long-run") -> Alert:
    return alert_of(key, rule)


def judged(*alerts: Alert) -> Judgement:
    return Judgement(alerts, RULES)


@dataclass
class Carrier:
    """Channels that take messages, but for those that are down."""

    names: list[str] = field(default_factory=lambda: ["a"])
    down: set[str] = field(default_factory=set)
    got: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(Channel(name, f"{number} (test)") for number, name in enumerate(self.names, 1))

    def send(self, messages: Mapping[str, Message]) -> dict[str, str | None]:
        for key, message in messages.items():
            if key not in self.down:
                self.got.append((key, message.kind, tuple(one.title for one in message.alerts)))
        return {key: "no answer" if key in self.down else None for key in messages}

    def take(self) -> list[tuple[str, str, tuple[str, ...]]]:
        got, self.got = self.got, []
        return got


def step(postgres: psycopg.Connection, settings: Settings, carrier: Carrier, *alerts: Alert) -> list[tuple[str, str]]:
    """An evaluation that finds these. Returns what was told: kinds and titles."""
    record.note_judgement(postgres, judged(*alerts), settings)
    send_due(postgres, carrier)
    return [(kind, title) for _, kind, titles in carrier.take() for title in titles]


RAISED, CLEARED = ("raised", "Title of a"), ("cleared", "Title of a")


def test_an_alert_is_sent_once_repeated_after_its_cool_down_and_said_to_be_over_once(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there = Carrier()
    assert step(postgres, settings, there, alert()) == [RAISED]
    assert step(postgres, settings, there, alert()) == []
    age(postgres, 59)
    assert step(postgres, settings, there, alert()) == []
    age(postgres, 2)
    assert step(postgres, settings, there, alert()) == [RAISED]
    assert step(postgres, settings, there) == [CLEARED]
    assert step(postgres, settings, there) == []
    assert postgres.execute("select count, cleared_at is null from ops.alerts").fetchall() == [(4, False)]


@pytest.mark.parametrize("rule", ["long-run", "dead-letters"])
def test_what_comes_back_after_its_end_is_another_incident_and_told_as_such_but_not_each_time(
    settings: Settings, postgres: psycopg.Connection, rule: str
) -> None:
    """Repetition of what is open waits an hour or a day; recurrence does not."""
    there, one = Carrier(), alert(rule=rule)
    assert step(postgres, settings, there, one) == [RAISED]
    assert step(postgres, settings, there) == [CLEARED]
    for _ in range(3):
        assert step(postgres, settings, there, one) == [], "it comes and goes"
        assert step(postgres, settings, there) == [], "nobody was told, so nobody is told that it is over"
    step(postgres, settings, there, one)
    age(postgres, 16)
    assert step(postgres, settings, there, one) == [RAISED]
    assert step(postgres, settings, there) == [CLEARED]


def test_a_rule_may_tell_a_matter_once_in_a_longer_time(settings: Settings, postgres: psycopg.Connection) -> None:
    there, one = Carrier(), alert(rule="budget")
    assert step(postgres, settings, there, one) == [RAISED]
    assert step(postgres, settings, there) == [CLEARED]
    age(postgres, 60 * 24 * 20)
    assert step(postgres, settings, there, one) == []


def test_alerts_of_rules_without_facts_stay_open(settings: Settings, postgres: psycopg.Connection) -> None:
    record.note_judgement(postgres, judged(alert(), alert("b", "dead-letters")), settings)
    record.note_judgement(postgres, Judgement((), frozenset({"long-run"})), settings)
    assert [one.rule for one in record.open_alerts(postgres)] == ["dead-letters"]


def test_what_has_doubled_is_told_again_and_more_severe_too(settings: Settings, postgres: psycopg.Connection) -> None:
    there, small = Carrier(), replace(alert(rule="dead-letters"), size=3, severity="warning")
    assert step(postgres, settings, there, small) == [RAISED]
    age(postgres, 16)
    assert step(postgres, settings, there, replace(small, size=5)) == []
    assert step(postgres, settings, there, replace(small, size=6)) == [RAISED]
    assert step(postgres, settings, there, replace(small, size=600)) == [], "not twice within a few minutes"
    age(postgres, 16)
    assert step(postgres, settings, there, replace(small, size=600)) == [RAISED]
    age(postgres, 16)
    assert step(postgres, settings, there, replace(small, size=600, severity="failure")) == [RAISED]


def test_what_somebody_took_on_is_not_repeated_until_it_has_grown_or_comes_back(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there, one = Carrier(), replace(alert(), size=3)
    step(postgres, settings, there, one)
    assert record.acknowledge(postgres, "long-run:a", "ann@desk")
    assert not record.acknowledge(postgres, "long-run:b", "ann@desk")
    age(postgres, 500)
    assert step(postgres, settings, there, one) == []
    [shown] = record.open_alerts(postgres)
    assert shown.acknowledged_by == "ann@desk"
    assert shown.acknowledged_at is not None
    assert step(postgres, settings, there, replace(one, size=6)) == [RAISED]
    age(postgres, 61)
    assert step(postgres, settings, there, replace(one, size=6)) == [RAISED], "it is not what was taken on any more"
    record.acknowledge(postgres, str(shown.alert_id), "ben@desk")
    assert step(postgres, settings, there) == [CLEARED]
    age(postgres, 16)
    assert step(postgres, settings, there, one) == [RAISED], "another incident"


def test_what_is_snoozed_is_silent_until_then_and_its_end_is_told_once(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there, one = Carrier(), replace(alert(), size=3)
    step(postgres, settings, there, one)
    assert record.snooze(postgres, "long-run:a", timedelta(hours=2), "ann@desk")
    age(postgres, 100)
    assert step(postgres, settings, there, replace(one, size=100)) == []
    assert step(postgres, settings, there) == [CLEARED]
    assert step(postgres, settings, there) == []
    age(postgres, 16)
    assert step(postgres, settings, there, one) == [], "the key is silent, though it is another incident"
    age(postgres, 5)
    assert step(postgres, settings, there, one) == [RAISED]
    [shown] = record.open_alerts(postgres)
    assert shown.snoozed_by == "ann@desk"
    assert not record.snooze(postgres, "999", timedelta(hours=2), "ann@desk")


def test_a_channel_that_is_down_is_tried_again_later_and_longer_each_time(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    away = Carrier(down={"a"})
    pauses = []
    for _ in range(8):
        step(postgres, settings, away, alert())
        [[pause]] = postgres.execute(
            "select extract(epoch from next_try_at - clock_timestamp())::integer from ops.alert_channels"
        ).fetchall()
        pauses.append(pause)
        postgres.execute("update ops.alert_channels set next_try_at = clock_timestamp()")
    assert [round(pause, -1) for pause in pauses] == [30, 60, 120, 240, 480, 900, 900, 900]
    assert record.open_alerts(postgres)[0].delivery_error == "1 (test): no answer"
    away.down.clear()
    assert step(postgres, settings, away, alert()) == [RAISED]
    assert record.open_alerts(postgres)[0].delivery_error is None


def test_what_is_new_is_tried_at_once_also_where_a_channel_is_left_alone(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there = Carrier(down={"a"})
    step(postgres, settings, there, alert())
    there.down.clear()
    assert step(postgres, settings, there, alert()) == [], "it is left alone for a while"
    both = step(postgres, settings, there, alert(), alert("b", "dead-letters"))
    assert both == [("raised", "Title of b"), RAISED], "what it did not take before goes last"


def test_a_channel_that_is_back_hears_of_what_is_open_and_of_what_was_and_is_over(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there = Carrier(["a", "b"], down={"b"})
    step(postgres, settings, there, alert(), alert("x"), alert("y"))
    step(postgres, settings, there, alert(), alert("y"), alert("z"))
    step(postgres, settings, there, alert(), alert("y"))
    there.down.clear()
    age(postgres, 20)
    send_due(postgres, there)
    got = [(kind, titles) for channel, kind, titles in there.take() if channel == "b"]
    assert sorted(got) == [
        ("cleared", ("Title of x",)),
        ("cleared", ("Title of z",)),
        ("raised", ("Title of a",)),
        ("raised", ("Title of y",)),
    ]
    send_due(postgres, there)
    assert there.take() == []


def test_channels_that_change_places_get_neither_twice_nor_never(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there = Carrier(["a", "b"], down={"b"})
    step(postgres, settings, there, alert())
    there.names, there.down = ["c", "a"], set()
    send_due(postgres, there)
    assert there.take() == [("c", "raised", ("Title of a",))]
    there.names = ["b", "a", "c"]
    age(postgres, 1)
    send_due(postgres, there)
    assert there.take() == [("b", "raised", ("Title of a",))]


def test_many_of_a_rule_are_one_message_and_their_ends_too_and_none_passes_for_over(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there, many = Carrier(), [alert(f"{number:02}") for number in range(250)]
    for _ in range(3):
        record.note_judgement(postgres, judged(*many), settings)
        send_due(postgres, there)
    [(_, kind, titles)] = there.take()
    assert (kind, len(titles)) == ("raised", 250)
    record.note_judgement(postgres, judged(*many[:100]), settings)
    send_due(postgres, there)
    [(_, kind, titles)] = there.take()
    assert (kind, len(titles)) == ("cleared", 150)
    assert len(record.open_alerts(postgres)) == 100


def test_what_comes_one_by_one_is_told_at_once_and_then_together(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there = Carrier()
    for number in range(30):
        record.note_alerts(postgres, [alert(f"{number:02}")], settings)
        send_due(postgres, there, most_lately=1)
    assert [titles for _, _, titles in there.take()] == [("Title of 00",)]
    send_due(postgres, there)
    [(_, _, titles)] = there.take()
    assert len(titles) == 29
    for number in range(30, 60):
        step(postgres, settings, there, *(alert(f"{one:02}") for one in range(number + 1)))
    age(postgres, 6)
    send_due(postgres, there)
    [(_, _, titles)] = there.take()
    assert len(titles) == 27, "three more were told one by one"


def test_a_message_says_how_many_and_names_some(settings: Settings, postgres: psycopg.Connection) -> None:
    record.note_judgement(postgres, judged(*(alert(f"{number:02}") for number in range(30))), settings)
    [message] = [Message(tuple(due.due(postgres, ["a"])))]
    assert titled(message) == "[usage_pipeline] 30 alerts of long-run: Title of 00, and 29 more"


def test_channels_whose_sender_died_are_sent_to_by_another_after_a_while(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there = Carrier()
    record.note_judgement(postgres, judged(alert()), settings)
    due.note_channels(postgres, there.channels)
    assert due.claim_channels(postgres, "died", ["a"], ["a"]) == {"a"}
    send_due(postgres, there)
    assert there.take() == []
    age(postgres, 2)
    send_due(postgres, there)
    assert there.take() == [("a", "raised", ("Title of a",))]
    due.release_channel(postgres, "died", "a", "too late")
    assert postgres.execute("select error from ops.alert_channels").fetchall() == [(None,)]


@pytest.mark.parametrize("_", range(3))
def test_evaluators_at_the_same_time_open_one_alert_and_send_one_message(
    settings: Settings, postgres: psycopg.Connection, _: int
) -> None:
    evaluators, alerts = 4, [alert(str(number)) for number in range(3)]
    begin, there = threading.Barrier(evaluators), Carrier()

    def evaluate(number: int) -> None:
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            begin.wait(20)
            # In another order each: rows are locked in the order of their keys.
            record.note_judgement(connection, judged(*alerts[number:], *alerts[:number]), settings)
            send_due(connection, there)

    with ThreadPoolExecutor(evaluators) as pool:
        list(pool.map(evaluate, range(evaluators)))
    send_due(postgres, there)
    assert sorted(title for _, _, titles in there.take() for title in titles) == [one.title for one in alerts]
    assert postgres.execute("select count(*), sum(count) from ops.alerts").fetchone() == (3, 3 * evaluators)


def test_what_is_urgent_goes_first(settings: Settings, postgres: psycopg.Connection) -> None:
    there = Carrier()
    step(postgres, settings, there, alert("over"))
    found = step(
        postgres,
        settings,
        there,
        replace(alert("slow", "dead-letters"), severity="warning"),
        alert("bad", "budget"),
    )
    assert found == [("raised", "Title of bad"), ("raised", "Title of slow"), ("cleared", "Title of over")]


def test_an_alert_that_is_not_told_is_open_and_is_told_when_it_is_to_be(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there, quiet = Carrier(), replace(alert(), is_told=False)
    for _ in range(2):
        assert step(postgres, settings, there, quiet) == []
    assert step(postgres, settings, there, alert()) == [RAISED]
    age(postgres, 61)
    assert step(postgres, settings, there, quiet) == []
    assert step(postgres, settings, there) == [CLEARED]


def test_an_alert_sent_without_the_record_is_noted_as_sent_and_said_to_be_over(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    there, now = Carrier(["a", "b"]), datetime.now(UTC)
    for _ in range(2):
        record.note_sent_before(postgres, alert(), {"a": now}, settings)
    record.note_judgement(postgres, judged(alert()), settings)
    send_due(postgres, there)
    assert there.take() == [("b", "raised", ("Title of a",))]
    assert step(postgres, settings, there) == [CLEARED, CLEARED]


def test_old_alerts_are_forgotten_and_open_ones_are_not(settings: Settings, postgres: psycopg.Connection) -> None:
    there = Carrier()
    step(postgres, settings, there, alert(), alert("b"))
    step(postgres, settings, there, alert("b"))
    age(postgres, 60 * 24 * 200)
    record.forget_alerts(postgres, datetime.now(UTC))
    due.forget_channels(postgres, datetime.now(UTC))
    assert [one.title for one in record.open_alerts(postgres)] == ["Title of b"]
    assert postgres.execute("select count(*) from ops.alerts").fetchone() == (1,)
    assert postgres.execute("select count(*) from ops.alert_channels").fetchone() == (0,)


@pytest.mark.parametrize("text", ["nul \0", "surrogates \ud800 \udfff", "x" * 200_000])
def test_no_text_stops_all_alerts(settings: Settings, postgres: psycopg.Connection, text: str) -> None:
    odd = Alert("long-run", f"long-run:{text[:100]}", "failure", text, text, text, link=text, size=1)
    there = Carrier()
    assert ("raised", "Title of a") in step(postgres, settings, there, odd, alert())
    assert len(step(postgres, settings, there)) == 2
