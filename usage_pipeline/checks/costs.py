"""Rules for costs: list prices and reports agree, all tokens have a kind, and tags have few values."""

from datetime import date
from decimal import Decimal

import psycopg

from usage_pipeline.rollups.window_tables import MOST_TAG_VALUES
from usage_pipeline.storage.sql import load
from usage_pipeline.texts import counted

LARGEST_DIFFERENCE = Decimal("0.02")


def cost_difference_faults(connection: psycopg.Connection, first: date, last: date) -> list[str]:
    """Models whose senders report another cost than the list has for the same requests, by more than 2 %.

    A day, team and service with a reported request that has no list price is left out; `models_have_prices` tells of that.
    """
    rows = connection.execute(load("checks/select_cost_differences"), {"first_day": first, "last_day": last})
    return [
        f"{provider}/{model}: senders report {reported:f} US dollars for {counted(requests, 'request')}, the list price is "
        f"{listed:f} ({_percent(reported, listed)})"
        for provider, model, requests, reported, listed in rows
        if abs(reported - listed) > LARGEST_DIFFERENCE * listed
    ]


def unattributed_faults(connection: psycopg.Connection, first: date, last: date) -> list[str]:
    """Models with tokens that are in the total, and neither input nor output: nobody knows their price."""
    rows = connection.execute(load("checks/select_unattributed_tokens"), {"first_day": first, "last_day": last})
    return [
        f"{provider}/{model}: {unattributed} of {counted(total, 'token is', 'tokens are')} neither input nor output"
        for provider, model, unattributed, total in rows
    ]


def crowded_tag_faults(connection: psycopg.Connection, first: date, last: date) -> list[str]:
    """Tags of ROLLUP_TAGS with more values a day than stay apart."""
    rows = connection.execute(load("checks/select_crowded_tags"), {"first_day": first, "last_day": last})
    return [
        f"tag {tag}: more than {MOST_TAG_VALUES} values in a day; "
        f"{counted(requests, 'request')} of the others together as `other`"
        for tag, requests in rows
    ]


def tag_counts(connection: psycopg.Connection, day: date) -> dict[str, tuple[int, int]]:
    """Of each tag that is rolled up of a day: its distinct values, at most MOST_TAG_VALUES, and the requests of all others."""
    rows = connection.execute(load("checks/count_tag_values"), {"usage_date": day})
    return {tag: (values, others) for tag, values, others in rows}


def _percent(reported: Decimal, listed: Decimal) -> str:
    return f"{reported / listed - 1:+.1%}" if listed else "it should cost nothing"
