"""The copy of the catalog is the catalog, and profiles of rows are what a count by hand says."""

import runpy
from datetime import date

import psycopg
import pytest

from usage_pipeline.rollups.lineage import COLUMN_LINEAGE, OF_THE_ROW
from usage_pipeline.storage import table_profile
from usage_pipeline.storage.catalog import read_catalog, stored_catalog, stored_views
from usage_pipeline.storage.table_profile import partition_null_shares, profile_table
from usage_pipeline_tests.rigs.places import DOCS


def test_the_copy_is_what_the_migrations_make(postgres: psycopg.Connection) -> None:
    assert stored_catalog() == read_catalog(postgres), "run docs/write_catalog.py"
    written = runpy.run_path(str(DOCS / "write_catalog.py"))["read_views"](postgres)
    assert stored_views() == written, "run docs/write_catalog.py"


def test_the_lineage_of_views_is_what_postgresql_says_that_they_need(postgres: psycopg.Connection) -> None:
    """It depends on the columns of its views' queries, not on which column of the view needs which."""
    needed = """
        select distinct rules.ev_class::regclass::text, needs.refobjid::regclass || '.' || attname
        from pg_rewrite as rules
        join pg_depend as needs on needs.classid = 'pg_rewrite'::regclass and needs.objid = rules.oid
        join pg_attribute on attrelid = needs.refobjid and attnum = needs.refobjsubid
        join pg_class as views on views.oid = rules.ev_class
        where needs.refclassid = 'pg_class'::regclass
          and attnum > 0
          and needs.refobjid <> rules.ev_class
          and views.relnamespace = 'reporting'::regnamespace
    """
    columns: dict[str, set[str]] = {}
    for view, column in postgres.execute(needed):
        columns.setdefault(view, set()).add(column)
    assert columns.keys() == stored_views().keys()
    for name, view in stored_views().items():
        found = {source for sources in view.lineage.values() for source in sources}
        assert found <= columns[name], name
        assert {source.rpartition(".")[0] for source in found} <= set(view.sources), name
        assert list(view.lineage) == [column.name for column in stored_catalog()[name].columns]


def test_lineage_of_views_goes_through_sums_unions_and_subqueries() -> None:
    views = {name.partition(".")[2]: view.lineage for name, view in stored_views().items()}
    assert views["usage_by_team"]["cost_usd"] == ["analytics.usage_daily.cost_usd"]
    assert views["usage_by_team"]["distinct_users"] == ["analytics.usage_user_daily.user_id"]
    assert views["errors_by_type"]["errors"] == ["analytics.usage_daily.errors", "analytics.usage_error_daily.errors"]
    assert views["charge_back"]["late_change_usd"] == ["ops.late_data.after", "ops.late_data.before"]
    assert views["charge_back"]["cost_usd"] == ["analytics.usage_daily.cost_usd"]
    assert views["current_rankings"]["score"] == ["reporting.rankings.score"]
    assert len(views["rankings"]["score"]) == 6


def test_every_table_and_column_of_it_has_a_comment() -> None:
    silent = [
        name
        for name, table in stored_catalog().items()
        if not table.comment or not all(column.comment for column in table.columns)
    ]
    assert silent == []


@pytest.mark.parametrize("table", COLUMN_LINEAGE)
def test_lineage_knows_every_column_and_none_that_is_not_there(table: str) -> None:
    catalog = stored_catalog()
    columns = {column.name for column in catalog[table].columns}
    assert columns - OF_THE_ROW <= set(COLUMN_LINEAGE[table]) <= columns
    for sources in COLUMN_LINEAGE[table].values():
        assert sources
        for source in sources:
            name, _, column = source.rpartition(".")
            assert column in {each.name for each in catalog[name].columns}, source


def test_shares_of_nulls_of_a_day(postgres: psycopg.Connection) -> None:
    day = date(2026, 1, 1)
    for number in range(8):
        postgres.execute(
            "insert into usage.api_key_daily values (%s, %s, 1, 1, 0, 0, 0, %s)",
            (day, f"k{number}", None if number < 3 else "2026-01-01T10:00Z"),
        )
    postgres.execute("insert into usage.api_key_daily values ('2026-01-02', 'k', 1, 1, 0, 0, 0, null)")
    assert partition_null_shares(postgres, "usage.api_key_daily", "usage_date", day) == {"last_used_at": 0.375}
    assert partition_null_shares(postgres, "usage.api_key_daily", "usage_date", date(2026, 1, 3)) == {}
    assert partition_null_shares(postgres, "stats.daily_issue_stats", "date", day) == {}


def test_a_small_table_is_counted_and_a_large_one_estimated(
    postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute(
        "insert into usage.api_keys (api_key_id, last_used_at) "
        "select 'k' || n, case when n > 30 then now() end from generate_series(1, 120) as n"
    )
    counted = profile_table(postgres, "usage.api_keys")
    assert (counted.rows, counted.null_shares, counted.is_exact) == (120, {"last_used_at": 0.25}, True)
    monkeypatch.setattr(table_profile, "_MOST_COUNTED_ROWS", 100)
    assert profile_table(postgres, "usage.api_keys").is_exact, "there are no statistics yet"
    postgres.execute("analyze usage.api_keys")
    estimated = profile_table(postgres, "usage.api_keys")
    assert (estimated.rows, estimated.null_shares, estimated.is_exact) == (120, {"last_used_at": 0.25}, False)
