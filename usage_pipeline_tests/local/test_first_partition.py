"""Where partitions of `dev` begin."""

from datetime import date

import psycopg
import pytest

from usage_pipeline.local.first_partition import first_partition
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.clock import days_ago

DEFAULT = date(2025, 1, 1)
OF_COUNTERS = "insert into ops.touched_days (family, usage_date) values ('api_key', %s)"
OF_MERCHANTS = (
    "insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value) values ('m', %s, 'orders', 1)"
)
OF_EVENTS = """
    insert into analytics.usage_daily
        (usage_date, team, service, provider, model, requests, errors, input_tokens, output_tokens, total_tokens,
        distinct_users, unpriced_requests)
    values (%s, 't', 's', 'p', 'm', 1, 0, 0, 0, 0, 1, 0)
"""


def first(database_url: str, **settings: object) -> date:
    return first_partition(database_url, load_settings(database_url=database_url, **settings))


def test_an_empty_database_has_partitions_of_the_days_whose_events_are_taken(database_url: str) -> None:
    assert first(database_url, retention_days=30) == days_ago(30)
    assert first(database_url, retention_days=3_650) == DEFAULT


@pytest.mark.parametrize("store", [OF_COUNTERS, OF_MERCHANTS, OF_EVENTS], ids=["counters", "merchants", "events"])
def test_older_data_move_it_to_their_first_day_and_newer_ones_do_not(
    store: str, database_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute(store, (days_ago(20),))
    assert first(database_url, retention_days=30) == days_ago(30)
    postgres.execute(store, (days_ago(40),))
    assert first(database_url, retention_days=30) == days_ago(40)


def test_a_day_that_a_wrong_clock_made_does_not_bring_decades(database_url: str, postgres: psycopg.Connection) -> None:
    postgres.execute(OF_COUNTERS, (date(1970, 1, 20),))
    assert first(database_url) == DEFAULT


def test_a_start_that_is_set_wins(database_url: str, postgres: psycopg.Connection) -> None:
    postgres.execute(OF_COUNTERS, (days_ago(400),))
    assert first(database_url, usage_start_date=days_ago(3)) == days_ago(3)
