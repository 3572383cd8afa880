"""Settings: one line for each wrong variable, aliases, and secrets that stay secret."""

import pytest

from usage_pipeline.settings import Settings, SettingsError, load_settings


def test_the_defaults_are_those_of_the_contracts() -> None:
    settings = load_settings()
    assert settings.metrics_sync_interval_ms == 5_000
    assert settings.api_token_sync_interval_ms == 60_000
    assert settings.usage_aggregation_interval == 3_600_000
    assert settings.enable_usage_aggregation
    assert settings.enable_job_scheduler
    assert settings.stats_cron_schedule == "0 3 * * *"
    assert settings.stats_start_date.isoformat() == "2015-01-01"
    assert settings.db_pool_size == 10
    assert settings.usage_timezone == "UTC"
    assert settings.retention_days == 180
    assert settings.drain_barrier == "auto"
    assert settings.external_api_base_url == "https://jsonplaceholder.typicode.com"
    assert settings.external_api_timeout == 5_000
    assert settings.external_api_max_retries == 3
    assert settings.external_posts == tuple(range(1, 11))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://u:s3cret@host/db"),
        ("DATABASE_URL", "s3cret"),
        ("DAGSTER_POSTGRES_URL", "s3cret"),
        ("REDIS_URL", "http://:s3cret@host"),
        ("REDIS_PORT", "s3cret"),
        ("REDIS_PORT", "0"),
        ("REDIS_PORT", "65536"),
        ("DB_POOL_SIZE", "0"),
        ("DB_POOL_SIZE", "many"),
        ("METRICS_SYNC_INTERVAL_MS", "0"),
        ("METRICS_SYNC_INTERVAL_MS", "5s"),
        ("API_TOKEN_SYNC_INTERVAL_MS", "-1"),
        ("USAGE_AGGREGATION_INTERVAL", "1"),
        ("ENABLE_USAGE_AGGREGATION", "perhaps"),
        ("ENABLE_JOB_SCHEDULER", "2"),
        ("USAGE_TIMEZONE", "Mars/Olympus"),
        ("USAGE_TIMEZONE", "../etc/passwd"),
        ("USAGE_TIMEZONE", ""),
        ("USAGE_TIMEZONE", "Factory"),
        ("USAGE_TIMEZONE", "localtime"),
        ("USAGE_TIMEZONE", "right/UTC"),
        ("USAGE_TIMEZONE", "Australia/Lord_Howe"),
        ("USAGE_START_DATE", "yesterday"),
        ("STATS_START_DATE", "2015"),
        ("STATS_CRON_SCHEDULE", ""),
        ("STATS_CRON_SCHEDULE", "daily"),
        ("STATS_CRON_SCHEDULE", "@daily"),
        ("STATS_CRON_SCHEDULE", "0 3 * *"),
        ("STATS_CRON_SCHEDULE", "0 0 3 * * *"),
        ("STATS_CRON_SCHEDULE", "60 3 * * *"),
        ("STATS_CRON_SCHEDULE", "0 0 30 2 *"),
        ("STATS_CRON_SCHEDULE", "0 3 LW * *"),
        ("ALERT_URLS", "s3cret"),
        ("ALERT_URLS", "json://host,s3cret://"),
        ("ALERT_URLS", "json://host/a b"),
        ("ALERT_TIMEOUT_SECONDS", "0"),
        ("ALERT_COOL_DOWN_MINUTES", "0"),
        ("ALERT_REDIS_GROWTH", "1"),
        ("HEARTBEAT_SECONDS", "1"),
        ("RETENTION_DAYS", "0"),
        ("DRAIN_BARRIER", "maybe"),
        ("DRAIN_CHUNK_KEYS", "0"),
        ("DRAIN_BUDGET_SECONDS", "0"),
        ("CONNECT_TIMEOUT_SECONDS", "nan"),
        ("REDIS_TIMEOUT_SECONDS", "-1"),
        ("BODY_TIMEOUT_SECONDS", "0"),
        ("EXTERNAL_API_BASE_URL", ""),
        ("EXTERNAL_API_BASE_URL", "ftp://s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://user:s3cret@host"),
        ("EXTERNAL_API_BASE_URL", "https://s3cret@host"),
        ("EXTERNAL_API_BASE_URL", "https://host/?key=s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://host/#s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://host:99999/s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://ho st"),
        ("EXTERNAL_API_TIMEOUT", "0"),
        ("EXTERNAL_API_TIMEOUT", "60001"),
        ("EXTERNAL_API_MAX_RETRIES", "0"),
        ("EXTERNAL_API_MAX_RETRIES", "11"),
        ("EXTERNAL_POST_IDS", ""),
        ("EXTERNAL_POST_IDS", "0"),
        ("EXTERNAL_POST_IDS", "1-1001"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    message = str(wrong.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert "s3cret" not in message
    assert wrong.value.__cause__ is None
    assert wrong.value.__suppress_context__, "the traceback would show the value"


@pytest.mark.parametrize("expression", ["0 3 * * *", "*/15 1-5 1,15 * MON-FRI", "30 4 * jan 7"])
def test_a_schedule_of_the_statistics_may_be_any_cron_expression(expression: str) -> None:
    assert load_settings(stats_cron_schedule=expression).stats_cron_schedule == expression


def test_several_wrong_values_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_POOL_SIZE", "0")
    monkeypatch.setenv("REDIS_PORT", "x")
    with pytest.raises(SettingsError, match=r"^DB_POOL_SIZE: .+; REDIS_PORT: .+$"):
        load_settings()


def test_db_url_is_another_name_of_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", "postgres://u:p@host/alias")
    assert load_settings().database_url.get_secret_value() == "postgresql://u:p@host/alias"
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://u:p@host/first")
    assert load_settings().database_url.get_secret_value() == "postgresql://u:p@host/first"


def test_redis_is_one_url_or_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().redis_dsn.get_secret_value() == "redis://127.0.0.1:6379/0"
    monkeypatch.setenv("REDIS_HOST", "cache")
    monkeypatch.setenv("REDIS_PORT", "6380")
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss/word:")
    assert load_settings().redis_dsn.get_secret_value() == "redis://:p%40ss%2Fword%3A@cache:6380/0"
    monkeypatch.setenv("REDIS_URL", "rediss://other/1")
    assert load_settings().redis_dsn.get_secret_value() == "rediss://other/1"


def test_a_password_survives_the_way_into_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    monkeypatch.setenv("REDIS_PASSWORD", "p@ss/word: %41")
    pool = redis.ConnectionPool.from_url(load_settings().redis_dsn.get_secret_value())
    assert pool.connection_kwargs["password"] == "p@ss/word: %41"


def test_secrets_are_in_no_text_of_the_settings() -> None:
    settings = load_settings(
        database_url="postgresql://u:s3cret@host/db",
        redis_url="redis://:s3cret@host",
        redis_password="s3cret",
        dagster_postgres_url="postgresql://u:s3cret@host/dagster",
    )
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.redis_dsn)):
        assert "s3cret" not in text


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().db_pool_size = 3  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_password_that_would_spill_into_the_host_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scheme = "redis" if name == "REDIS_URL" else "postgresql"
    monkeypatch.setenv(name, f"{scheme}://user:hun@ter2@host/db")
    with pytest.raises(SettingsError, match=f"^{name}: .*%40") as raised:
        load_settings()
    assert "ter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("json://a", ("json://a",)),
        ("json://a, slack://b/c ,https://d", ("json://a", "slack://b/c", "https://d")),
        ("mailto://u:p@host?to=x@y.z,w@y.z,json://a", ("mailto://u:p@host?to=x@y.z,w@y.z", "json://a")),
        ("json://a,", ("json://a",)),
    ],
)
def test_alert_urls_are_parted_at_commas_before_a_url_and_stay_secret(text: str, expected: tuple[str, ...]) -> None:
    settings = load_settings(alert_urls=text)
    assert tuple(url.get_secret_value() for url in settings.alert_channels) == expected
    assert "json://a" not in repr(settings)


def test_hours_that_would_overlap_are_refused_with_the_day_on_which_the_clocks_move() -> None:
    """Lord Howe moves by half an hour twice a year; Caracas did once, on 2016-05-01."""
    with pytest.raises(SettingsError, match=r"^USAGE_TIMEZONE: .*whole hours.*2025-0[34]-\d\d: hours would overlap$"):
        load_settings(usage_timezone="Australia/Lord_Howe")
    assert load_settings(usage_timezone="America/Caracas").usage_timezone == "America/Caracas"
    with pytest.raises(SettingsError, match=r"^USAGE_START_DATE: expected a day after 2016-05-0\d"):
        load_settings(usage_timezone="America/Caracas", usage_start_date="2016-01-01")


def test_zones_that_are_not_a_multiple_of_an_hour_from_utc_are_taken() -> None:
    for zone in ("Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham"):
        assert load_settings(usage_timezone=zone).usage_timezone == zone
