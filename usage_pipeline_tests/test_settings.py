"""Settings: one line for each wrong variable, aliases, and secrets that stay secret."""

import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

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
        ("REDIS_HOST", "redis://:s3cret@host"),
        ("REDIS_HOST", ":s3cret@host"),
        ("REDIS_HOST", "host:6379"),
        ("REDIS_HOST", "host/s3cret"),
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
        ("USAGE_TIMEZONE", "Factory"),
        ("USAGE_TIMEZONE", "localtime"),
        ("USAGE_TIMEZONE", "right/UTC"),
        ("USAGE_TIMEZONE", "Australia/Lord_Howe"),
        ("USAGE_START_DATE", "yesterday"),
        ("STATS_START_DATE", "2015"),
        ("USAGE_START_DATE", "0001-01-01"),
        ("USAGE_START_DATE", "2999-01-01"),
        ("USAGE_START_DATE", "0"),
        ("STATS_START_DATE", "1735689600"),
        ("STATS_START_DATE", "20240101"),
        ("STATS_START_DATE", "2024-W01-1"),
        ("STATS_CRON_SCHEDULE", "*/61 * * * *"),
        ("STATS_CRON_SCHEDULE", "0 */25 * * *"),
        ("STATS_CRON_SCHEDULE", "0 3 */40 * *"),
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
        ("DRAIN_BUDGET_SECONDS", "60"),
        ("CONNECT_TIMEOUT_SECONDS", "nan"),
        ("REDIS_TIMEOUT_SECONDS", "-1"),
        ("BODY_TIMEOUT_SECONDS", "0"),
        ("EXTERNAL_API_BASE_URL", "ftp://s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://user:s3cret@host"),
        ("EXTERNAL_API_BASE_URL", "https://s3cret@host"),
        ("EXTERNAL_API_BASE_URL", "https://host/?key=s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://host/#s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://host:99999/s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://user:s3cret[::1]:1"),
        ("REDIS_URL", "redis://user:4917?s3cret@host"),
        ("REDIS_URL", "redis://user:4917?s3cret=@host"),
        ("REDIS_URL", "redis://user:4917/s3cret@host"),
        ("REDIS_URL", "redis://:s3cret/x@host"),
        ("REDIS_URL", "redis://:s3cret?x@host"),
        ("REDIS_URL", "redis://:s3cret#x@host"),
        ("REDIS_URL", "redis://:s3cret@host:with:colons:1/0"),
        ("REDIS_URL", "redis://:[s3cret]@host"),
        ("REDIS_URL", "redis://:s3cret\u2100x@host"),
        ("REDIS_URL", "redis://:s3\ncret@host"),
        ("REDIS_URL", "redis://host?socket_timeout=s3cret"),
        ("REDIS_URL", "redis://host?s3cret=1"),
        ("REDIS_URL", "redis+sentinel://:s3cret@host"),
        ("REDIS_URL", "unix://:s3cret/x@/run/redis.sock"),
        ("DATABASE_URL", "postgresql://u:s3cret/x@host/db"),
        ("DATABASE_URL", "postgresql://u:5432/s3cret@host/db"),
        ("DATABASE_URL", "postgresql://u:s3cret%zz@host/db"),
        ("DATABASE_URL", "postgresql://u:s3cret x@host/db"),
        ("DATABASE_URL", "postgresql://host?password=x@s3cret"),
        ("DATABASE_URL", "postgresql://u:x@host,u:s3cret@host/db"),
        ("DATABASE_URL", "host=127.0.0.1 password=s3cret"),
        ("DAGSTER_POSTGRES_URL", "postgresql://host:5432/db?password=x@s3cret"),
        ("EXTERNAL_API_BASE_URL", "https://ho st"),
        ("EXTERNAL_API_TIMEOUT", "0"),
        ("EXTERNAL_API_TIMEOUT", "60001"),
        ("EXTERNAL_API_MAX_RETRIES", "0"),
        ("EXTERNAL_API_MAX_RETRIES", "11"),
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
    assert wrong.value.__context__ is None, "a traceback would show the value, or a reader of chains would find it"


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


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/usage",
        "host/usage",
        "@host",
        "user@host:5432/usage",
        "user:p%40ss%2Fw%25rd@host/usage?sslmode=verify-full&sslrootcert=system",
        "user:p?w#r[d]!$&'()*+,;=~^`{|}\\\"<>@host/usage",
        "user:pässwört@höst/usage",
        "user%40tenant:pw@host/us%40ge",
        "user:pw@a:5432,b:5433,[::1]:5434/usage?target_session_attrs=read-write",
        "user:pw@a,b/usage",
        "[fe80::1%25eth0]:5432/usage",
        "/usage?host=/var/run/postgresql",
        "%2Fvar%2Frun%2Fpostgresql/usage",
        "/usage?host=@abstract",
        "host/usage?user=me@tenant&password=p@ss",
        "host/usage?options=-c%20statement_timeout%3D1s&application_name=my%20own",
        "host/usage?hostaddr=127.0.0.1&port=6432",
        "host/usage?ssl=true",
        "host:/usage?service=mine&passfile=/run/secrets/pgpass",
    ],
)
def test_a_url_of_postgresql_that_libpq_reads_without_a_doubt_stays_as_it_is(rest: str) -> None:
    url = f"postgresql://{rest}"
    assert conninfo_to_dict(url) is not None
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        assert load_settings(database_url=f"{scheme}://{rest}").database_url.get_secret_value() == url
    assert load_settings(database_url=f"{url}\n").database_url.get_secret_value() == url, "as files of secrets end"


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://host:6380/3",
        "redis://:pw@host",
        "redis://user:pw@host/0?socket_timeout=3&health_check_interval=10",
        "redis://user:p%40%2F%3F%23%5B%25@host:6379/0",
        "redis://:p%zz!$&'()*+,;=:~^`{|}\\\"<>@host",
        "redis://:pässwört@host",
        "redis://[::1]:6379/1",
        "redis://host?db=2&protocol=3&client_name=mine",
        "redis://host?password=p@ss&username=me",
        "rediss://user:pw@host:6380/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required&ssl_check_hostname=true",
        "unix:///run/redis/redis.sock",
        "unix://user:pw@/run/redis.sock?db=2",
    ],
)
def test_a_url_of_redis_that_its_client_reads_without_a_doubt_stays_as_it_is(url: str) -> None:
    pool = redis.ConnectionPool.from_url(url)
    pool.connection_class(**pool.connection_kwargs)
    assert load_settings(redis_url=url).redis_dsn.get_secret_value() == url
    assert load_settings(redis_url=f"{url}\n").redis_dsn.get_secret_value() == url, "as files of secrets end"


@pytest.mark.parametrize(
    "host", ["cache", "cache.example.com.", "10.0.0.1", "[::1]", "::1", "2001:db8::5", "my_cache-1", "höst"]
)
def test_a_host_of_redis_may_be_a_name_or_an_address(host: str) -> None:
    settings = load_settings(redis_host=host)
    assert redis.ConnectionPool.from_url(settings.redis_dsn.get_secret_value()).connection_kwargs["port"] == 6379


def test_redis_is_one_url_or_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().redis_dsn.get_secret_value() == "redis://127.0.0.1:6379/0"
    monkeypatch.setenv("REDIS_HOST", "cache")
    monkeypatch.setenv("REDIS_PORT", "6380")
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss/word:")
    assert load_settings().redis_dsn.get_secret_value() == "redis://:p%40ss%2Fword%3A@cache:6380/0"
    monkeypatch.setenv("REDIS_URL", "rediss://other/1")
    assert load_settings().redis_dsn.get_secret_value() == "rediss://other/1"


def test_a_password_survives_the_way_into_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_reports_are_sent_only_where_alerts_have_an_address() -> None:
    with pytest.raises(
        SettingsError, match=r"^SEND_REPORTS: expected the addresses of ALERT_URLS beside it, came none$"
    ):
        load_settings(send_reports=True)
    assert load_settings(send_reports=True, alert_urls="json://127.0.0.1/").send_reports
