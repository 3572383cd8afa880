"""Writes docs/settings.md, the page of all settings, from usage_pipeline/settings.py.

uv run python docs/write_settings.py
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from usage_pipeline.settings import Settings

PAGE = Path(__file__).parent / "settings.md"
_GROUPS = {
    "Where PostgreSQL and Redis are": (
        "database_url",
        "database_password_command",
        "database_password_file",
        "redis_url",
        "redis_host",
        "redis_port",
        "redis_password",
        "dagster_postgres_url",
        "db_pool_size",
        "connect_timeout_seconds",
        "redis_timeout_seconds",
    ),
    "What runs by itself, and how often": (
        "enable_job_scheduler",
        "metrics_sync_interval_ms",
        "api_token_sync_interval_ms",
        "enable_usage_aggregation",
        "usage_aggregation_interval",
        "stats_cron_schedule",
    ),
    "What a day is, and the first one": ("usage_timezone", "usage_start_date", "stats_start_date"),
    "The drain": ("drain_barrier", "drain_chunk_keys", "drain_budget_seconds"),
    "How long things are kept": (
        "retention_days",
        "compression_after_days",
        "chunk_time_interval_hours",
        "archive_url",
        "run_history_days",
        "event_history_days",
    ),
    "Usage events and the HTTP service": (
        "rollup_tags",
        "landing_url",
        "erasure_secret",
        "otlp_team_attributes",
        "otlp_user_attributes",
        "otlp_service_attributes",
        "otlp_keep_content",
        "max_bulk_size",
        "max_gzip_size",
        "body_timeout_seconds",
        "head_timeout_seconds",
        "max_connections",
        "max_connections_per_address",
        "allowed_origins",
        "metrics_token",
        "session_key",
        "audit_log",
        "prometheus_multiproc_dir",
    ),
    "The Dagster UI": (
        "dagster_ui_allowed_hosts",
        "dagster_ui_password_hash",
    ),
    "Sign-in by a proxy": ("trusted_user_header", "trusted_proxies"),
    "External posts": (
        "external_api_base_url",
        "external_api_timeout",
        "external_api_max_retries",
        "external_post_ids",
        "enable_external_posts_route",
    ),
    "Reports": ("reports_url", "send_reports"),
    "Alerts": (
        "alert_urls",
        "dagster_ui_url",
        "alert_timeout_seconds",
        "alert_cool_down_minutes",
        "alert_long_run_seconds",
        "alert_redis_growth",
        "alert_usage_score",
        "alert_usage_floor",
        "heartbeat_seconds",
    ),
}
_HEAD = """# Settings

<!-- Written by docs/write_settings.py from usage_pipeline/settings.py. Change the text there, and run it again. -->

A setting is an environment variable. Each process reads the settings once, when it starts: restart it after a change.
When a value is wrong, the process prints one line that names the variable, and stops. That line repeats numbers, single
words and dates; any other value may be a secret. A variable that is set but empty, as compose writes `${X:-}`, is the same as
one that is not set.

- All processes need the same addresses of PostgreSQL and Redis, and the same `USAGE_TIMEZONE`.
- A yes-or-no setting takes `true` or `false`.
- Addresses with a password are secrets. They appear in no log, no metadata and no alert. In the password of a URL, write
  `% / ? # @ : [ ]` and spaces as `%25 %2F %3F %23 %40 %3A %5B %5D %20`: a URL that could be read in two ways is refused, since
  a client would take a part of the password for a host or a port, and name it in its errors.
- `usage-pipeline dev` starts PostgreSQL and Redis itself where you do not name them, and then sets these variables for
  the processes that it starts. It prints a line by which another terminal gets them too. A command without them asks servers
  at the defaults below, and says so when none answers.
- `dev` and `demo` keep everything below `.local` of the folder in which you start them: the data of PostgreSQL and
  Redis, archives (`ARCHIVE_URL`), landed files (`LANDING_URL`), reports (`REPORTS_URL`), logs, and Dagster's home. No setting
  moves it; start them in another folder. `demo` also takes `--folder`. To begin anew, stop them and delete `.local`.
- Ports are options of the commands, not settings: `dev --port 3000 --api-port 8000`, `api --port 8000`. If one is
  taken, `dev` takes the next free one and says so, and `api` ends with an error. PostgreSQL and Redis of `dev` take no
  port of your choice: PostgreSQL listens on a socket in `.local/postgres` only, Redis on a free port of 127.0.0.1. The
  line that `dev` prints has both. Those of compose are in [operations.md](operations.md#start).
- [operations.md](operations.md#settings-by-concern) says which settings matter for which concern.

The column *allowed* is empty where the meaning says it all.
"""


def page() -> str:
    """The whole page. Raises ValueError if a setting is in no group, or has no description."""
    grouped = [name for names in _GROUPS.values() for name in names]
    if set(grouped) != set(Settings.model_fields) or len(grouped) != len(set(grouped)):
        raise ValueError(f"expected each setting in one group, differs: {set(grouped) ^ set(Settings.model_fields)}")
    return "\n".join([_HEAD, *(line for title, names in _GROUPS.items() for line in _group(title, names))])


def _group(title: str, names: tuple[str, ...]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| variable | default | allowed | meaning |\n|---|---|---|---|"
    for name in names:
        field = Settings.model_fields[name]
        if not field.description:
            raise ValueError(f"{name}: expected a description")
        cells = (_variable(name, field), _default(field.default), _allowed(field), field.description)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _variable(name: str, field: FieldInfo) -> str:
    if not isinstance(field.validation_alias, AliasChoices):
        return f"`{name.upper()}`"
    first, *others = field.validation_alias.choices
    return f"`{first}` (or {', '.join(f'`{other}`' for other in others)})"


def _default(value: Any) -> str:
    if value is None or value == "":
        return "not set"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (date, str)):
        return f"`{value}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    limits = {key: getattr(rule, key) for rule in field.metadata for key in ("ge", "gt", "le") if hasattr(rule, key)}
    low = f"{limits['ge']:,}" if "ge" in limits else f"more than {limits['gt']:,}" if "gt" in limits else ""
    high = f"{limits['le']:,}" if "le" in limits else ""
    if low and high:
        return f"{low}, at most {high}" if "gt" in limits else f"{low} to {high}"
    return low and (low if "gt" in limits else f"{low} or more")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
