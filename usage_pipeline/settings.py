"""Every environment variable and tunable, once (contracts §5). Nothing here does I/O; `load_settings` reads the environment."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from usage_recorder import keys

from usage_pipeline.redis_keys import KEY_LAYOUT_READ
from usage_pipeline.setting_types import (
    MAX_POST_ID,
    MAX_POSTS,
    AlertUrls,
    AttributeNames,
    BearerSecret,
    ChunkHours,
    CronExpression,
    DagsterStorageUrl,
    EvenInterval,
    ExactOrigins,
    HeaderName,
    HostName,
    HostNames,
    Networks,
    PasswordCommand,
    PasswordFile,
    PlainHttpUrl,
    PlainSecret,
    PostgresUrl,
    PostNumbers,
    RedisUrl,
    StartDate,
    TagNames,
    TimeZoneName,
    UiPasswordHash,
    fault_of,
    listed,
    odd_change,
    split_urls,
)
from usage_pipeline.values import PossibleTimes, numbers


class SettingsError(ValueError):
    """A setting is missing or wrong; the message is one line that names the variable."""


# A shorter text would be found in half of all words.
_LEAST_SECRET = 4
# A bulk request or a landed document may decompress to so many times MAX_GZIP_SIZE.
MAX_EXPANSION = 20
Barrier = Literal["auto", "none", "wait", "waitaof", "age"]


class Settings(BaseSettings):
    """The settings of the whole pipeline. Field names are the environment variables in lower case.

    Connection URLs are secrets: they print as `**********`, and only `.get_secret_value()` reveals them.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    database_url: PostgresUrl = Field(
        default=SecretStr("postgresql://postgres@127.0.0.1:5432/usage"),
        validation_alias=AliasChoices("DATABASE_URL", "DB_URL"),
        description="PostgreSQL database of the usage tables, as a `postgresql://` URL.",
    )
    database_password_command: PasswordCommand = Field(
        default=None,
        description="Program that prints the password of `DATABASE_URL`, for passwords that expire, such as "
        "`aws rds generate-db-auth-token …`. Words are split as in a shell, but no shell runs it. It is run for the first "
        "connection of a process, and again when a login fails.",
    )
    database_password_file: PasswordFile = Field(
        default=None,
        description="File that holds the password of `DATABASE_URL`. It is read for the first connection of a process, and "
        "again when a login fails.",
    )
    db_pool_size: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="The most connections to PostgreSQL that one process of the HTTP service keeps open.",
    )
    redis_url: RedisUrl | None = Field(
        default=None,
        description="Redis server that the API servers write to, as a `redis://`, `rediss://` or `unix://` URL; "
        "or any one node of a Redis Cluster; or the sentinels that know it, as `redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB` "
        "(docs/operations.md).",
    )
    redis_host: HostName = Field(
        default="127.0.0.1", description="Host of Redis. Used only when `REDIS_URL` is not set."
    )
    redis_port: int = Field(
        default=6379, ge=1, le=65535, description="Port of Redis. Used only when `REDIS_URL` is not set."
    )
    redis_password: PlainSecret | None = Field(
        default=None, description="Password of Redis. Used only when `REDIS_URL` is not set."
    )
    dagster_postgres_url: DagsterStorageUrl | None = Field(
        default=None,
        description="PostgreSQL database of Dagster's own storage. Give it a database of its own, or that of `DATABASE_URL`.",
    )

    metrics_sync_interval_ms: int = Field(
        default=5_000,
        ge=100,
        le=86_400_000,
        description="Milliseconds between two drains of API keys, storage providers and request events.",
    )
    api_token_sync_interval_ms: int = Field(
        default=60_000, ge=100, le=86_400_000, description="Milliseconds between two drains of API tokens."
    )
    usage_aggregation_interval: EvenInterval = Field(
        default=3_600_000,
        ge=60_000,
        le=86_400_000,
        description="Milliseconds between two aggregations of merchant counters: "
        "whole minutes that divide an hour, or whole hours that divide a day.",
    )
    enable_usage_aggregation: bool = Field(
        default=True, description="Whether the schedule that aggregates merchant counters is on."
    )
    enable_job_scheduler: bool = Field(
        default=True, description="Whether schedules and sensors are on. Without them nothing runs by itself."
    )
    stats_cron_schedule: CronExpression = Field(
        default="0 3 * * *",
        description="When yesterday's issue statistics are made: "
        "a cron expression of five fields, in `USAGE_TIMEZONE`.",
    )

    usage_timezone: TimeZoneName = Field(
        default="UTC",
        description="Time zone in which a day begins and ends, as an IANA name such as `Europe/Vienna`. "
        "After a change, run `usage-pipeline rezone`.",
    )
    usage_start_date: StartDate = Field(
        default=date(2025, 1, 1),
        description="First daily partition of usage. A usage event with an older time is refused.",
    )
    stats_start_date: StartDate = Field(
        default=date(2015, 1, 1),
        description="First daily partition of issue statistics. Issues are often older than usage.",
    )
    retention_days: int = Field(
        default=180,
        ge=1,
        le=3_650,
        description="Days for which raw rows and events are kept. "
        "Older partitions are dropped, and an event with an older time is refused.",
    )
    compression_after_days: int = Field(
        default=7,
        ge=1,
        le=3_650,
        description="Days after which a partition is compressed, or becomes Parquet files below `ARCHIVE_URL`.",
    )
    chunk_time_interval_hours: ChunkHours = Field(
        default=24, description="Hours of usage events in one partition: 6, 12, 24 or 48."
    )
    run_history_days: int = Field(
        default=30,
        ge=1,
        le=3_650,
        description="Days for which Dagster's runs are kept. A run that decides the status of a partition stays.",
    )
    event_history_days: int = Field(
        default=7,
        ge=1,
        le=3_650,
        description="Days for which Dagster keeps the details of runs that succeeded "
        "and the reports of the drain sensors.",
    )
    # fsspec addresses, too, may hold a password.
    archive_url: str | None = Field(
        default=None,
        repr=False,
        description="Folder or fsspec address for archived partitions. When it is not set, they stay in the database.",
    )
    rollup_tags: TagNames = Field(
        default="",
        description="Up to five names of tags, separated by commas, by whose values usage is rolled up per day. Days that are "
        "made from then on have them; backfill `analytics/usage_daily` for earlier days.",
    )
    landing_url: str | None = Field(
        default=None,
        repr=False,
        description="Folder or fsspec address where files of usage events arrive. "
        "When it is not set, no files are read.",
    )
    reports_url: str | None = Field(
        default=None,
        repr=False,
        description="Folder or fsspec address for the files of weekly and monthly reports. When it is not set, they are only "
        "pictures in the Dagster UI, and sent with `SEND_REPORTS`.",
    )
    erasure_secret: PlainSecret | None = Field(
        default=None,
        min_length=32,
        description="With it, a person who is erased again gets the same pseudonym, so months count one person as one. "
        "At least 32 characters, for example of `openssl rand -hex 32`. Keep it for ever, and apart from the database: whoever "
        "has both can try ids. When it is not set, each erasure takes a random name.",
    )
    audit_log: str | None = Field(
        default=None,
        description="File to which the HTTP service appends a JSON line for each request that it refuses (401, 403, 410, "
        "429, 503), and the guard before the Dagster UI one for each of its refusals. "
        "At 64 MB it is renamed to `….1`. When it is not set, the lines go to standard error.",
    )
    session_key: PlainSecret | None = Field(
        default=None,
        min_length=32,
        description="Signs what the HTTP service keeps in Redis and must be able to believe: copies of tokens. At least 32 "
        "characters, the same for all its processes. When it is not set, the service makes one and keeps it in PostgreSQL.",
    )
    max_bulk_size: int = Field(default=1_000, ge=1, le=100_000, description="The most items in one bulk request.")
    max_gzip_size: int = Field(
        default=10_485_760,
        ge=1_024,
        le=2**30,
        description="The most bytes of one bulk request as it is sent. Decompressed it may have 20 times as many.",
    )
    otlp_team_attributes: AttributeNames = Field(
        default="team,service.namespace",
        description="Attributes of OpenTelemetry that name the team, separated by commas: the first that the span or its "
        "resource has. Without one the team is `unknown`.",
    )
    otlp_user_attributes: AttributeNames = Field(
        default="enduser.id,user.id", description="The same for the user of a request."
    )
    otlp_service_attributes: AttributeNames = Field(default="service.name", description="The same for the service.")
    otlp_keep_content: bool = Field(
        default=False,
        description="Whether prompts and answers in spans of OpenTelemetry are stored, as message archives. "
        "Otherwise they are dropped.",
    )

    body_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3_600,
        description="Seconds for the whole body of a request to the HTTP service, and for a client that reads nothing of its "
        "answer.",
    )
    head_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds for the head of a request to the HTTP service or the Dagster UI: its first line and its headers.",
    )
    max_connections: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="The most connections that one process of the HTTP service or of the Dagster UI keeps open. For one "
        "more, the one that has been idle longest is closed.",
    )
    max_connections_per_address: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="The same for one address. Behind a proxy all connections have its address.",
    )

    external_api_base_url: PlainHttpUrl = Field(
        default="https://jsonplaceholder.typicode.com",
        description="Address of the API of external posts; `/posts/{id}` is added to it. "
        "It takes no password and no query.",
    )
    external_api_timeout: int = Field(
        default=5_000, ge=50, le=60_000, description="Milliseconds for one try, from the connection to the last byte."
    )
    external_api_max_retries: int = Field(
        default=3, ge=1, le=10, description="The most tries for one post, the first one included."
    )
    enable_external_posts_route: bool = Field(
        default=True,
        description="Whether `GET /api/external/posts/{id}` is there. It needs no token, so anybody may have posts fetched. "
        "The asset `external/posts` does not depend on it.",
    )
    external_post_ids: PostNumbers = Field(
        default="1-10",
        max_length=10_000,
        description="Posts that the asset `external/posts` fetches every hour: "
        "numbers and ranges such as `1-10,42`, at most 1,000 posts.",
    )
    prometheus_multiproc_dir: str | None = Field(
        default=None,
        description="Folder in which the processes of one HTTP service add up their metrics. "
        "`usage-pipeline api --workers N` sets it.",
    )

    metrics_token: BearerSecret | None = Field(
        default=None,
        description="Bearer token that `/metrics` asks for: at least 16 characters, for example of `openssl rand -hex 32`. "
        "When it is not set, anybody may read the metrics.",
    )
    allowed_origins: ExactOrigins = Field(
        default="",
        description="Origins whose web pages may call the HTTP service, separated by commas, such as "
        "`https://app.example.com`. When it is not set, only the service's own pages may.",
    )

    dagster_ui_allowed_hosts: HostNames = Field(
        default="",
        description="Names under which the Dagster UI may be asked, separated by commas, such as `dagster.example.com`. "
        "Without ports. `localhost`, `127.0.0.1` and `[::1]` are always allowed.",
    )
    dagster_ui_password_hash: UiPasswordHash | None = Field(
        default=None,
        description="The Dagster UI asks for the password of this hash, under any user name: the output of "
        "`usage-pipeline ui-password`. When it is not set, no password is asked for.",
    )
    trusted_user_header: HeaderName | None = Field(
        default=None,
        description="Header in which a proxy names who signed in, such as `X-Forwarded-User`. It counts from `TRUSTED_PROXIES` "
        "only. The HTTP service then lets in whom `usage-pipeline invite NAME --header` named. The Dagster UI takes every "
        "request that has it, and others only with the password.",
    )
    trusted_proxies: Networks = Field(
        default="",
        validate_default=True,
        description="Addresses and networks of the proxies whose `TRUSTED_USER_HEADER` and `X-Forwarded-Proto` count, "
        "separated by commas, such as `10.0.0.5,10.1.0.0/16`.",
    )

    dagster_ui_url: PlainHttpUrl | None = Field(
        default=None,
        description="Address of the Dagster UI, such as `https://dagster.example.com`: alerts link to it. `usage-pipeline dev` "
        "sets its own. When it is not set, alerts have no links.",
    )
    alert_urls: AlertUrls | None = Field(
        default=None,
        description="Where alerts are sent, separated by commas: Apprise URLs, or `http(s)://` addresses that take JSON. "
        "When it is not set, alerts are only logged.",
    )
    alert_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=30,
        description="Seconds for one message to one of `ALERT_URLS`. A message that fails is sent again later.",
    )
    send_reports: bool = Field(
        default=False,
        description="Whether each weekly and monthly report also goes to `ALERT_URLS`, once.",
    )
    alert_cool_down_minutes: int = Field(
        default=60,
        ge=1,
        le=10_080,
        description="Minutes after which an alert that is still open is sent again. "
        "An alert that a day cannot change waits 24 times as long.",
    )
    alert_long_run_seconds: int = Field(
        default=300, ge=1, le=604_800, description="A run that takes more seconds than this raises an alert."
    )
    alert_redis_growth: float = Field(
        default=2.0,
        gt=1,
        le=100,
        description="Redis raises an alert when its memory or its keys grow to this many times what is usual.",
    )
    alert_usage_score: float = Field(
        default=6.0,
        ge=1,
        le=1_000,
        description="An hour of usage is abnormal from this many robust standard deviations above the usual.",
    )
    alert_usage_floor: int = Field(
        default=100, ge=1, le=10**12, description="With fewer uses than this, an hour is never abnormal."
    )
    heartbeat_seconds: int = Field(
        default=180,
        ge=30,
        le=86_400,
        description="When the alert sensor gives no sign of life for so many seconds, "
        "`/healthz` says that the scheduler is down.",
    )

    drain_barrier: Barrier = Field(
        default="auto",
        description="How the drain makes sure that Redis will not forget its claims. "
        "`auto` chooses by what the Redis server is.",
    )
    drain_chunk_keys: int = Field(default=5_000, ge=1, le=100_000, description="The most keys in one batch of a drain.")
    drain_budget_seconds: float = Field(
        default=20.0,
        gt=0,
        le=50,
        json_schema_extra={"why": "Dagster gives up a sensor's tick after 60 seconds"},
        description="Seconds that one drain in a sensor tick may take.",
    )
    connect_timeout_seconds: float = Field(
        default=3.0, gt=0, le=60, description="Seconds for a connection to PostgreSQL or Redis."
    )
    redis_timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Seconds for one answer from Redis to the drain."
    )

    @field_validator("usage_start_date", "stats_start_date")
    @classmethod
    def _has_begun(cls, start: date, checked: ValidationInfo) -> date:
        # Before it there is no partition, so nothing would ever be made.
        today = datetime.now(ZoneInfo(checked.data.get("usage_timezone") or "UTC")).date()
        if start > today:
            raise ValueError(f"expected a day up to today, {today}, came {start}")
        return start

    @field_validator("usage_start_date")
    @classmethod
    def _hours_never_overlap(cls, start: date, checked: ValidationInfo) -> date:
        zone = checked.data.get("usage_timezone")
        if zone and (moved := odd_change(ZoneInfo(zone), start)):
            raise ValueError(
                f"expected a day after {moved}, around which the clocks of {zone} move by a part of an hour"
            )
        return start

    @field_validator("database_password_file")
    @classmethod
    def _password_has_one_source(cls, file: str | None, checked: ValidationInfo) -> str | None:
        if file is not None and checked.data.get("database_password_command") is not None:
            raise ValueError("expected this or DATABASE_PASSWORD_COMMAND, came both")
        return file

    @field_validator("send_reports")
    @classmethod
    def _reports_have_channels(cls, is_sent: bool, checked: ValidationInfo) -> bool:
        if is_sent and checked.data.get("alert_urls") is None:
            raise ValueError("expected the addresses of ALERT_URLS beside it, came none")
        return is_sent

    @field_validator("trusted_proxies")
    @classmethod
    def _trusted_header_has_proxies(cls, proxies: str, checked: ValidationInfo) -> str:
        if checked.data.get("trusted_user_header") is not None and not listed(proxies):
            raise ValueError("expected the addresses of the proxies beside TRUSTED_USER_HEADER, came none")
        return proxies

    @property
    def aggregation_cron(self) -> str:
        """USAGE_AGGREGATION_INTERVAL as a cron expression."""
        minutes = self.usage_aggregation_interval // 60_000
        if minutes < 60:
            return f"*/{minutes} * * * *"
        return "0 * * * *" if minutes == 60 else f"0 */{minutes // 60} * * *"

    @property
    def external_posts(self) -> tuple[int, ...]:
        """EXTERNAL_POST_IDS as numbers, ascending, each once."""
        return numbers("EXTERNAL_POST_IDS", self.external_post_ids, largest=MAX_POST_ID, most=MAX_POSTS)

    @property
    def redis_dsn(self) -> SecretStr:
        """REDIS_URL, or what REDIS_HOST, REDIS_PORT and REDIS_PASSWORD add up to."""
        if self.redis_url is not None:
            return self.redis_url
        password = f":{quote(self.redis_password.get_secret_value(), safe='')}@" if self.redis_password else ""
        return SecretStr(f"redis://{password}{self.redis_host}:{self.redis_port}/0")

    @property
    def tags(self) -> tuple[str, ...]:
        """ROLLUP_TAGS, one by one."""
        return listed(self.rollup_tags)

    @property
    def otlp_team_names(self) -> tuple[str, ...]:
        """OTLP_TEAM_ATTRIBUTES, one by one."""
        return listed(self.otlp_team_attributes)

    @property
    def otlp_user_names(self) -> tuple[str, ...]:
        """OTLP_USER_ATTRIBUTES, one by one."""
        return listed(self.otlp_user_attributes)

    @property
    def otlp_service_names(self) -> tuple[str, ...]:
        """OTLP_SERVICE_ATTRIBUTES, one by one."""
        return listed(self.otlp_service_attributes)

    @property
    def origins(self) -> tuple[str, ...]:
        """ALLOWED_ORIGINS, one by one."""
        return listed(self.allowed_origins)

    @property
    def ui_hosts(self) -> tuple[str, ...]:
        """DAGSTER_UI_ALLOWED_HOSTS, one by one, in lower case."""
        return listed(self.dagster_ui_allowed_hosts.lower())

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """TRUSTED_PROXIES, one by one."""
        return tuple(map(ip_network, listed(self.trusted_proxies)))

    @property
    def alert_channels(self) -> tuple[SecretStr, ...]:
        """ALERT_URLS, one by one."""
        return tuple(map(SecretStr, split_urls(self.alert_urls.get_secret_value()))) if self.alert_urls else ()

    @property
    def max_decompressed_bytes(self) -> int:
        """What MAX_GZIP_SIZE allows a bulk request or a landed document to hold once decompressed."""
        return self.max_gzip_size * MAX_EXPANSION

    def with_redis_timeout(self, seconds: float) -> "Settings":
        """These settings for a look at Redis that takes at most so long, connecting included."""
        return self.model_copy(update={"redis_timeout_seconds": seconds, "connect_timeout_seconds": seconds})

    @property
    def timezone(self) -> ZoneInfo:
        return ZoneInfo(self.usage_timezone)

    @property
    def usage_start(self) -> datetime:
        """The first moment of USAGE_START_DATE, in UTC. Nothing before it is ever rolled up, so nothing before it is taken."""
        return datetime.combine(self.usage_start_date, time.min, self.timezone).astimezone(UTC)

    @property
    def possible_times(self) -> PossibleTimes:
        """Which times can be in counters and request events: RETENTION_DAYS and USAGE_START_DATE."""
        return PossibleTimes(self.retention_days, int(self.usage_start.timestamp() * 1000))


def load_settings(**overrides: object) -> Settings:
    """The settings from the environment, with `overrides` (field names) on top.

    A variable that is set but empty, as compose writes `${X:-}`, is the same as one that is not set.

    Raises SettingsError: one line, naming each wrong variable and what was expected. Values are repeated only where they can be
    no secret. Also raises it if the installed recorder writes keys that the drain cannot read.
    """
    if keys.KEY_LAYOUT != KEY_LAYOUT_READ:
        raise SettingsError(
            f"usage-recorder: expected the package with key layout {KEY_LAYOUT_READ}, came one with {keys.KEY_LAYOUT}, "
            "whose counters this drain could not read; install the version that came with this usage-pipeline"
        )
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        problems = [
            f"{str(one['loc'][0]).upper()}: {fault_of(one, Settings.model_fields.get(str(one['loc'][0]).lower()))}"
            for one in error.errors(include_url=False)
        ]
    # Outside of `except`: pydantic's error holds the values, and nobody should find it behind this one.
    raise SettingsError("; ".join(problems))


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Secrets in these variables: whole values, and the passwords in URLs. The longest first, so that none is left in part."""
    found = set[str]()
    for name, field in Settings.model_fields.items():
        names = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else [name.upper()]
        for value in filter(None, (environment.get(str(one)) for one in names)):
            if field.annotation is not None and "SecretStr" in str(field.annotation):
                found.add(value)
            found.add(value.partition("://")[2].rpartition("@")[0].partition(":")[2])
    return tuple(sorted((one for one in found if len(one) >= _LEAST_SECRET), key=len, reverse=True))
