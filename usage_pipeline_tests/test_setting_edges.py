"""Every setting with every odd value: it is used as it is meant, or refused in our words, in one line with its name."""

import re
from collections.abc import Iterator

import pytest
from pydantic import AliasChoices

from usage_pipeline.settings import Settings, SettingsError, load_settings

ODD = (
    *(
        " ",
        "-1",
        "0",
        "1",
        "1.5",
        "1e30",
        "9" * 40,
        "nan",
        "inf",
        "-0",
        "0x10",
        "1_000",
        "１２",
        "true",
        "maybe",
        "null",
    ),
    *("0001-01-01", "2999-01-01", "9999-12-31", "20240101", "2024-W01-1", "1735689600", "2024-01-01T00:00:00"),
    *("*/61 * * * *", "0 */25 * * *", "* * * * * *", "0 3 31 2 *", "::1", "h:6380", "h/3", "redis://h", "http://[::1"),
    *(
        "Factory",
        "localtime",
        "right/UTC",
        "posixrules",
        "Etc/GMT+12",
        "../etc/passwd",
        "[]",
        "{}",
        "${X:-}",
        "'10'",
        "a,b,,",
    ),
    *(
        "a b",
        "a\nb",
        "\x1b[31m",
        "\u202e",
        "한국어",
        "\udcff",
        "a" * 100_000,
        "%",
        "%zz",
        "*",
        ",",
        "/",
        "~",
        "-",
        "@",
        "#",
    ),
)
# As pydantic says it.
FOREIGN = re.compile(
    r"Input should|Value should|String should|unable to|Value error|valid (integer|number|string|boolean)"
)


def variables() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        yield from map(str, alias.choices) if isinstance(alias, AliasChoices) else (name.upper(),)


@pytest.mark.parametrize("variable", list(variables()))
def test_each_odd_value_is_used_rightly_or_refused_in_our_words(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = variable.replace("DB_URL", "DATABASE_URL")
    for value in ODD:
        monkeypatch.setenv(variable, value)
        try:
            settings = load_settings()
        except SettingsError as refused:
            said = str(refused)
            # One setting may need another one beside it.
            assert said.startswith((f"{name}: ", "TRUSTED_PROXIES: ", "SEND_REPORTS: ")), (value, said)
            assert "expected" in said, (value, said)
            assert not FOREIGN.search(said), (value, said)
            assert said.isprintable(), (value, said)
            assert len(said) < 500, (value, said)
            continue
        # What is made of them is sound, too.
        for derived in (one for one in dir(Settings) if isinstance(getattr(Settings, one), property)):
            getattr(settings, derived)


@pytest.mark.parametrize("variable", list(variables()))
def test_a_variable_that_is_empty_as_compose_writes_it_is_not_set(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = load_settings()
    monkeypatch.setenv(variable, "")
    settings = load_settings()
    assert settings == usual
    assert settings.model_fields_set == usual.model_fields_set


def test_the_older_name_counts_where_the_newer_one_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("DB_URL", "postgresql://u@host/other")
    assert load_settings().database_url.get_secret_value() == "postgresql://u@host/other"


def test_every_number_has_both_bounds() -> None:
    unbounded = [
        name
        for name, field in Settings.model_fields.items()
        if field.annotation in (int, float)
        and not (_has(field.metadata, "ge", "gt") and _has(field.metadata, "le", "lt"))
    ]
    # It is one of four numbers.
    assert unbounded == ["chunk_time_interval_hours"]


def _has(rules: list[object], *names: str) -> bool:
    return any(hasattr(rule, name) for rule in rules for name in names)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DB_POOL_SIZE", "x", "expected a whole number from 1 to 1,000, came 'x'"),
        ("DB_POOL_SIZE", "1.5", "expected a whole number from 1 to 1,000, came '1.5'"),
        ("DB_POOL_SIZE", "9" * 40, "expected a whole number from 1 to 1,000, came a number of 40 digits"),
        ("DB_POOL_SIZE", "p4ss!word", "expected a whole number from 1 to 1,000, came another text"),
        ("METRICS_SYNC_INTERVAL_MS", "1" + "0" * 30, "from 100 to 86,400,000, came a number of 31 digits"),
        ("CONNECT_TIMEOUT_SECONDS", "nan", "expected a number above 0 and up to 60, came 'nan'"),
        ("ENABLE_JOB_SCHEDULER", "perhaps", "expected true or false, came 'perhaps'"),
        ("DRAIN_BARRIER", "maybe", "expected one of auto, none, wait, waitaof, age, came 'maybe'"),
        ("DRAIN_BUDGET_SECONDS", "60", "up to 50, came '60'; Dagster gives up a sensor's tick after 60 seconds"),
        ("USAGE_START_DATE", "0001-01-01", "expected a day from 1990-01-01 on, came 0001-01-01"),
        ("STATS_START_DATE", "2999-01-01", "expected a day up to today, "),
        ("STATS_START_DATE", "0", "expected a day YYYY-MM-DD, came '0'"),
        ("ERASURE_SECRET", "short", "expected at least 32 characters, came fewer"),
        ("TRUSTED_USER_HEADER", "a b", "expected the name of a header such as X-Forwarded-User"),
        ("CHUNK_TIME_INTERVAL_HOURS", "x", "expected a whole number, came 'x'"),
    ],
)
def test_what_is_refused_says_what_was_expected_and_what_came(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert said in str(refused.value)
    assert "p4ss" not in str(refused.value)
