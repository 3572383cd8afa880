"""Zones that PostgreSQL does not know, or has other clocks for, are refused before anything is stored by them."""

from datetime import UTC, datetime
from zoneinfo import available_timezones

import psycopg
import pytest

from usage_pipeline.settings import Settings, SettingsError
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect
from usage_pipeline.storage.time_zones import TimeZoneRefused, expect_same_zone

TODAY = datetime.now(UTC).date()


def test_a_zone_that_the_server_does_not_know_is_refused_by_migrate_in_one_line(
    database_url: str, postgres: psycopg.Connection
) -> None:
    with pytest.raises(TimeZoneRefused, match=r"^USAGE_TIMEZONE: .*PostgreSQL server knows, came Mars/Olympus"):
        migrate(database_url, time_zone="Mars/Olympus")
    assert postgres.execute("select time_zone from ops.calendar").fetchone() == ("UTC",)


def test_a_name_that_means_other_clocks_to_the_server_is_refused(postgres: psycopg.Connection) -> None:
    """To PostgreSQL, MET is an abbreviation: an hour ahead of UTC also in summer. To Python it is a zone with summer time."""
    with pytest.raises(TimeZoneRefused, match=r"^USAGE_TIMEZONE: .*same clocks in MET, came others on 20\d\d-0[34]-"):
        expect_same_zone(postgres, "MET", today=TODAY)


def test_every_zone_of_the_database_either_has_the_same_clocks_on_both_sides_or_is_refused(
    postgres: psycopg.Connection,
) -> None:
    refused = []
    for zone in sorted(available_timezones() - {"Factory", "localtime", "posixrules"}):
        try:
            expect_same_zone(postgres, zone, today=TODAY)
        except SettingsError:
            refused.append(zone)
    assert "MET" in refused
    assert not {"UTC", "Europe/Vienna", "Africa/Cairo", "America/Santiago", "Asia/Kathmandu"} & set(refused), refused


def test_a_zone_that_the_server_has_lost_since_is_refused_at_each_start(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    """As when the server's image changes, whose time zone files lack old names."""
    postgres.execute("update ops.calendar set time_zone = 'Mars/Olympus'")
    moved = settings.model_copy(update={"usage_timezone": "Mars/Olympus"})
    with pytest.raises(PostgresUnavailable, match=r"^USAGE_TIMEZONE: .*PostgreSQL server knows, came Mars/Olympus"):
        connect(moved)
