"""The record on a real PostgreSQL: cool-down, cleared, retries, and evaluators that work at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from usage_pipeline.alerting import record
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.rules import Judgement
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import alert

RULES = frozenset({"failed-run", "dead-letters"})


def judged(*alerts: Alert) -> Judgement:
    return Judgement(alerts, RULES)


def age(postgres: psycopg.Connection, minutes: float) -> None:
    """As if everything had been so much earlier."""
    columns = [
        "first_at",
        "last_at",
        "cleared_at",
        "delivered_at",
        "cleared_delivered_at",
        "next_try_at",
        "claimed_until",
    ]
    changes = ", ".join(f"{column} = {column} - make_interval(mins => %(minutes)s)" for column in columns)
    postgres.execute(f"update ops.alerts set {changes}", {"minutes": minutes})


def send_all(postgres: psycopg.Connection, error: str | None = None) -> list[tuple[str, str]]:
    """Claims what is due, and notes it as sent, or as failed."""
    sent = []
    for message in record.claim_messages(postgres, "tester", most=100):
        record.note_delivery(postgres, message, "tester", () if error else ("1 (json)",), error)
        sent.append((message.pending, message.title))
    return sent


def test_an_alert_is_sent_once_repeated_after_its_cool_down_and_said_to_be_over_once(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    assert record.note_judgement(postgres, judged(alert()), settings) == (1, 0)
    assert send_all(postgres) == [("raised", "Title of a")]
    assert record.note_judgement(postgres, judged(alert()), settings) == (0, 0)
    assert send_all(postgres) == []
    age(postgres, 61)
    record.note_judgement(postgres, judged(alert()), settings)
    assert send_all(postgres) == [("raised", "Title of a")]
    assert record.note_judgement(postgres, judged(), settings) == (0, 1)
    assert send_all(postgres) == [("cleared", "Title of a")]
    assert record.note_judgement(postgres, judged(), settings) == (0, 0)
    assert send_all(postgres) == []
    [row] = postgres.execute(
        "select count, cleared_at is null, cleared_delivered_at is null from ops.alerts"
    ).fetchall()
    assert row == (3, False, False)


def test_an_alert_that_comes_and_goes_is_not_repeated_within_its_cool_down(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    for _ in range(3):
        record.note_judgement(postgres, judged(alert()), settings)
        record.note_judgement(postgres, judged(), settings)
    assert send_all(postgres) == [], "nobody was told, so nobody is told that it is over"
    record.note_judgement(postgres, judged(alert()), settings)
    assert send_all(postgres) == [("raised", "Title of a")]
    record.note_judgement(postgres, judged(), settings)
    assert send_all(postgres) == [("cleared", "Title of a")]
    record.note_judgement(postgres, judged(alert()), settings)
    assert send_all(postgres) == []
    age(postgres, 61)
    record.note_judgement(postgres, judged(alert()), settings)
    assert send_all(postgres) == [("raised", "Title of a")], "it lasts longer than the cool-down"


def test_alerts_of_rules_without_facts_stay_open(settings: Settings, postgres: psycopg.Connection) -> None:
    record.note_judgement(postgres, judged(alert(), alert("b", "dead-letters")), settings)
    record.note_judgement(postgres, Judgement((), frozenset({"failed-run"})), settings)
    assert [one.rule for one in record.open_alerts(postgres)] == ["dead-letters"]


def test_what_was_not_accepted_is_tried_again_later_and_longer_each_time(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    record.note_judgement(postgres, judged(alert()), settings)
    pauses = []
    for _ in range(8):
        assert send_all(postgres, "1 (json): no answer") == [("raised", "Title of a")]
        assert send_all(postgres) == [], "not at once"
        [[pause]] = postgres.execute(
            "select extract(epoch from next_try_at - clock_timestamp())::integer from ops.alerts"
        ).fetchall()
        pauses.append(pause)
        postgres.execute("update ops.alerts set next_try_at = clock_timestamp()")
    assert [round(pause, -1) for pause in pauses] == [30, 60, 120, 240, 480, 900, 900, 900]
    assert record.open_alerts(postgres)[0].delivery_error == "1 (json): no answer"
    assert send_all(postgres) == [("raised", "Title of a")]
    assert record.open_alerts(postgres)[0].delivery_error is None


def test_a_channel_that_has_the_message_does_not_get_it_again_with_those_that_have_not(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    record.note_judgement(postgres, judged(alert()), settings)
    [message] = record.claim_messages(postgres, "tester", most=9)
    record.note_delivery(postgres, message, "tester", ("1 (json)",), "2 (slack): no answer")
    age(postgres, 1)
    [message] = record.claim_messages(postgres, "tester", most=9)
    assert message.delivered_to == ["1 (json)"]
    record.note_delivery(postgres, message, "tester", ("2 (slack)",), None)
    age(postgres, 20)
    assert record.claim_messages(postgres, "tester", most=9) == []
    # A repetition is for all of them.
    age(postgres, 60)
    record.note_judgement(postgres, judged(alert()), settings)
    assert [message.delivered_to for message in record.claim_messages(postgres, "tester", most=9)] == [[]]


def test_a_message_whose_sender_died_is_sent_by_another_after_a_while(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    record.note_judgement(postgres, judged(alert()), settings)
    [lost] = record.claim_messages(postgres, "died", most=9)
    assert send_all(postgres) == []
    record.note_judgement(postgres, judged(), settings)
    assert len(record.open_alerts(postgres)) == 1, "while it may be being sent, it is not closed"
    age(postgres, 6)
    [again] = record.claim_messages(postgres, "another", most=9)
    record.note_delivery(postgres, lost, "died", (), "too late")
    assert record.open_alerts(postgres)[0].delivery_error is None
    record.note_delivery(postgres, again, "another", ("1 (json)",), None)
    assert send_all(postgres) == []


@pytest.mark.parametrize("_", range(3))
def test_evaluators_at_the_same_time_open_one_alert_and_send_one_message(
    settings: Settings, postgres: psycopg.Connection, _: int
) -> None:
    evaluators, alerts = 4, [alert(str(number)) for number in range(6)]
    begin, claimed = threading.Barrier(evaluators), threading.Barrier(evaluators)

    def evaluate(number: int) -> list[str]:
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            begin.wait(20)
            # In another order each: rows are locked in the order of their keys.
            record.note_judgement(connection, judged(*alerts[number:], *alerts[:number]), settings)
            messages = record.claim_messages(connection, str(number), most=9)
            claimed.wait(20)
            for message in messages:
                record.note_delivery(connection, message, str(number), ("1 (json)",), None)
            return [message.title for message in messages]

    with ThreadPoolExecutor(evaluators) as pool:
        sent = [title for titles in pool.map(evaluate, range(evaluators)) for title in titles]
    sent += [title for _, title in send_all(postgres)]
    assert sorted(sent) == [one.title for one in alerts]
    assert postgres.execute("select count(*), sum(count) from ops.alerts").fetchone() == (6, 6 * evaluators)


def test_what_is_urgent_goes_first_and_no_rule_holds_up_another(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    over = [alert(f"over-{number}", "failed-run") for number in range(30)]
    record.note_judgement(postgres, judged(*over), settings)
    send_all(postgres)
    record.note_judgement(postgres, judged(), settings)
    many = [replace(alert(f"{number:02}", "budget"), severity="warning") for number in range(40)]
    used_up = [alert(f"up-{number}", "budget") for number in range(30)]
    late = [replace(alert("slow", "long-run"), severity="warning"), alert("letters", "dead-letters")]
    record.note_alerts(postgres, [*many, *used_up], settings)
    record.note_alerts(postgres, late, settings)
    rounds = []
    while found := record.claim_messages(postgres, "tester", most=20):
        for message in found:
            record.note_delivery(postgres, message, "tester", ("1 (json)",), None)
        rounds.append([(message.pending, message.severity, message.rule) for message in found])
    assert sum(map(len, rounds)) == 102
    first = rounds[0]
    assert ("raised", "failure", "dead-letters") in first
    assert ("raised", "warning", "long-run") in first
    # In the order in which they are sent: what has begun, failures first, then what is over.
    ranks = [(pending == "cleared", severity == "warning") for pending, severity, _ in first]
    assert ranks == sorted(ranks)
    assert {rule for pending, _, rule in first if pending == "cleared"} == {"failed-run"}
    budgets = [severity for one in rounds for _, severity, rule in one if rule == "budget"]
    assert budgets == ["failure"] * 30 + ["warning"] * 40


def test_an_alert_that_is_not_told_is_open_and_is_told_when_it_is_to_be(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    quiet = replace(alert(), is_told=False)
    for _ in range(2):
        record.note_judgement(postgres, judged(quiet), settings)
        assert send_all(postgres) == []
    record.note_judgement(postgres, judged(alert()), settings)
    assert send_all(postgres) == [("raised", "Title of a")]
    age(postgres, 61)
    record.note_judgement(postgres, judged(quiet), settings)
    assert send_all(postgres) == []
    record.note_judgement(postgres, judged(), settings)
    assert send_all(postgres) == [("cleared", "Title of a")]


def test_an_alert_sent_without_the_record_is_noted_as_sent_and_said_to_be_over(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    record.note_sent_before(postgres, alert(), datetime.now(UTC))
    record.note_judgement(postgres, judged(alert()), settings)
    assert send_all(postgres) == []
    record.note_judgement(postgres, judged(), settings)
    assert send_all(postgres) == [("cleared", "Title of a")]


def test_old_alerts_are_forgotten_and_open_ones_are_not(settings: Settings, postgres: psycopg.Connection) -> None:
    record.note_judgement(postgres, judged(alert(), alert("b")), settings)
    record.note_judgement(postgres, judged(alert("b")), settings)
    age(postgres, 60 * 24 * 200)
    record.forget_alerts(postgres, datetime.now(UTC))
    assert [one.title for one in record.open_alerts(postgres)] == ["Title of b"]
    assert postgres.execute("select count(*) from ops.alerts").fetchone() == (1,)
