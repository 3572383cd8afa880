"""Usage by the values of chosen tags, replaced with its day; of a tag with too many values the rest is one."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from usage_pipeline.checks.costs import crowded_tag_faults, tag_counts
from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.events.pricing.lookups import current_version
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.own_versions import import_prices
from usage_pipeline.rollups import calendar, windows
from usage_pipeline.rollups.recost import recost
from usage_pipeline.rollups.rezone.run import rezone
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline_tests.rollups.costs.priced_rig import put_price, store_usage

NOW = datetime(2025, 7, 20, 12, tzinfo=UTC)
AT = datetime(2025, 6, 11, 10, 30, tzinfo=UTC)
DAY = calendar.day_window(date(2025, 6, 11), Settings().timezone)
SPAN = (DAY.day, DAY.day)
Tags = dict[str, str]


@pytest.fixture
def tagging(settings: Settings) -> Settings:
    return settings.model_copy(update={"rollup_tags": "project, customer"})


@pytest.fixture(autouse=True)
def _price(postgres: psycopg.Connection) -> None:
    put_price(postgres, "openai", "gpt-4o", None, {"input_usd": 1, "output_usd": 0})


def store(postgres: psycopg.Connection, settings: Settings, tags: Tags, **members: Any) -> None:
    store_usage(postgres, settings, NOW, AT, tags=tags, **{"usage": {"input_tokens": 1_000_000}, **members})


def roll(postgres: psycopg.Connection, settings: Settings) -> int:
    return replace_window(postgres, DAY, settings=settings, now=NOW).changed_rows


def by_tag(postgres: psycopg.Connection, columns: str = "sum(requests), sum(cost_usd)") -> list[tuple[Any, ...]]:
    return postgres.execute(
        f"select tag, value, is_rest, {columns} from analytics.usage_tag_daily group by 1, 2, 3 order by 1, 3, 2"
    ).fetchall()


def test_each_chosen_tag_has_the_usage_of_its_values(postgres: psycopg.Connection, tagging: Settings) -> None:
    store(postgres, tagging, {"project": "a", "customer": "x"})
    store(postgres, tagging, {"project": "a", "color": "red"}, team="other", cost_usd=Decimal("0.5"))
    store(postgres, tagging, {"project": "b", "customer": "x"}, status_code=500)
    units = {"input_tokens": 1_000_000, "cache_read_tokens": 7, "web_searches": 2}
    store(postgres, tagging, {"customer": ""}, usage=units)
    roll(postgres, tagging)
    assert by_tag(postgres) == [
        ("customer", "", False, 1, 1),
        ("customer", "x", False, 2, 2),
        ("project", "a", False, 2, Decimal("1.5")),
        ("project", "b", False, 1, 1),
    ]
    sums = "sum(errors), sum(reported_requests), sum(reported_cost_usd), sum(list_cost_usd), sum(cache_read_tokens)"
    assert by_tag(postgres, sums)[0][3:] == (0, 0, None, 1, 7)
    assert by_tag(postgres, sums)[2][3:] == (0, 1, Decimal("0.5"), 2, 0)
    assert by_tag(postgres, sums)[3][3:4] == (1,)
    assert postgres.execute("select other_units from analytics.usage_tag_daily where value = ''").fetchone() == (
        {"web_searches": 2},
    )
    assert roll(postgres, tagging) == 0, "the same again touches nothing"


def test_other_tags_hold_for_days_that_are_made_from_then_on(postgres: psycopg.Connection, tagging: Settings) -> None:
    store(postgres, tagging, {"project": "a", "color": "red"})
    roll(postgres, tagging.model_copy(update={"rollup_tags": ""}))
    assert by_tag(postgres) == []
    roll(postgres, tagging)
    assert [row[:2] for row in by_tag(postgres)] == [("project", "a")]
    roll(postgres, tagging.model_copy(update={"rollup_tags": "color"}))
    assert [row[:2] for row in by_tag(postgres)] == [("color", "red")]


@pytest.mark.parametrize("tags", ["", "color"])
def test_a_day_keeps_its_tags_when_it_is_made_again_for_another_reason(
    postgres: psycopg.Connection, tagging: Settings, tags: str
) -> None:
    store(postgres, tagging, {"project": "a", "color": "red"})
    roll(postgres, tagging)
    # Of a shell with other settings than the daemon that rolls up.
    other = tagging.model_copy(update={"rollup_tags": tags})
    import_prices(
        postgres, [OwnPrice("openai", "gpt-4o", prices={"input_mtok": Decimal(3), "output_mtok": Decimal(0)})]
    )
    [recosted] = recost(postgres, [DAY.day], current_version(postgres), settings=other)
    assert (recosted.cost_after, recosted.problem) == (3, "")
    assert by_tag(postgres) == [("project", "a", False, 1, 3)]
    rezone(postgres, other.model_copy(update={"usage_timezone": "Europe/Vienna"}))
    assert by_tag(postgres) == [("project", "a", False, 1, 3)]


def test_values_beyond_the_most_used_are_one_apart_from_a_value_of_that_name(
    postgres: psycopg.Connection, tagging: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MOST_TAG_VALUES", 2)
    for value in ("other", "other", "other", "a", "a"):
        store(postgres, tagging, {"project": value})
    roll(postgres, tagging)
    assert crowded_tag_faults(postgres, *SPAN) == []
    assert tag_counts(postgres, DAY.day) == {"project": (2, 0)}
    store(postgres, tagging, {"project": "b"})
    store(postgres, tagging, {"project": "c"}, model="gpt-4o-mini")
    roll(postgres, tagging)
    assert by_tag(postgres, "sum(requests)") == [
        ("project", "a", False, 2),
        ("project", "other", False, 3),
        ("project", "other", True, 2),
    ]
    assert crowded_tag_faults(postgres, *SPAN) == [
        "tag project: more than 1000 values in a day; 2 requests of the others together as `other`"
    ]
    # A value that is called `other` is one of them.
    assert tag_counts(postgres, DAY.day) == {"project": (2, 2)}


def test_tags_of_dropped_events_stay_and_late_ones_are_added(postgres: psycopg.Connection, tagging: Settings) -> None:
    store(postgres, tagging, {"project": "a"})
    roll(postgres, tagging)
    postgres.execute("delete from analytics.usage_events")
    postgres.execute(
        "insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept)"
        " values ('analytics.usage_events', %s, %s, 'test', true)",
        (DAY.first, DAY.end),
    )
    for count in (2, 3):
        store(postgres, tagging, {"project": "a"})
        roll(postgres, tagging)
        assert by_tag(postgres, "sum(requests)") == [("project", "a", False, count)]


def test_a_value_that_is_an_erased_user_is_added_to_its_pseudonym(
    postgres: psycopg.Connection, tagging: Settings
) -> None:
    tagging = tagging.model_copy(update={"erasure_secret": SecretStr("a secret of many characters")})
    pseudonym = erase(tagging, "user-7").pseudonym
    store(postgres, tagging, {"customer": "user-7"})
    store(postgres, tagging, {"customer": pseudonym}, usage={"input_tokens": 1_000_000, "web_searches": 2})
    roll(postgres, tagging)
    erase(tagging, "user-7")
    assert by_tag(postgres) == [("customer", pseudonym, False, 2, 2)]
    units = postgres.execute("select other_units from analytics.usage_tag_daily").fetchone()
    assert units == ({"web_searches": 2},)


def test_widest_names_fit(postgres: psycopg.Connection, tagging: Settings) -> None:
    widest = "\U00020000" * 200
    name = widest[:100]
    store(postgres, tagging, {name: widest}, team=widest, model=widest, provider=widest)
    roll(postgres, tagging.model_copy(update={"rollup_tags": name}))
    assert by_tag(postgres, "sum(requests)") == [(name, widest, False, 1)]


@pytest.mark.parametrize("names", ["a,b,c,d,e,f", "a,a", "a" * 101])
def test_too_many_or_odd_names_are_refused(names: str) -> None:
    with pytest.raises(SettingsError, match="ROLLUP_TAGS: expected up to 5 different names"):
        load_settings(rollup_tags=names)
