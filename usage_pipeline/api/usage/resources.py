"""The resources of the usage routes (contracts §3): each has one definition with its columns, filters and queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from usage_pipeline.exports.columns import Column


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows of the query `sql/api/select_<query>.sql`. They are sorted by the columns of `key`, which identify each row."""

    query: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    has_days: bool

    def place(self, name: str) -> int:
        """Where the column is in a row."""
        return next(place for place, column in enumerate(self.columns) if column.name == name)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.columns[self.place(name)] for name in self.key)


@dataclass(frozen=True, slots=True)
class Balance:
    """For a resource whose balance (stored and pending) can be asked for: the column of its id, and the columns of counts."""

    id_column: str
    counts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """One of the five resources. `filters` are parameters (name to description) that a column must equal.

    `is_by_team`: its rows can be told apart by team, service and user, so that a bound token may see some.
    """

    name: str
    title: str
    totals: Listing
    daily: Listing
    filters: Mapping[str, str]
    balance: Balance | None = None
    is_by_team: bool = False


_DAY = Column("usage_date", "day", "Day in USAGE_TIMEZONE", "2026-11-20")
_API_KEY = Column("api_key_id", "text", "API key", "key-1")
_LAST_USED = Column("last_used_at", "time", "Latest use", "2026-11-20T12:00:00Z", is_nullable=True)
_API_KEY_COUNTS = (
    Column("total_requests", "count", "Requests, all outcomes", 120),
    Column("successful_requests", "count", "Requests that succeeded", 118),
    Column("failed_requests", "count", "Requests that failed", 2),
    Column("total_file_size", "count", "Uploaded bytes", 245_760),
    Column("total_files_uploaded", "count", "Uploaded files", 120),
)
_TOKEN = Column("token_id", "text", "API token", "9f2c41d07be84a35a1c6e5d2f0b37a18")
_USES = Column("usage_count", "count", "Uses, summed over all server instances", 42)
_PROVIDER = Column("provider", "text", "Storage provider", "s3")
_PROVIDER_COLUMNS = (
    Column("user_id", "text", "Owner of the API key, as the writer last gave it", "user-1", is_nullable=True),
    Column("upload_count", "count", "Uploads", 7),
    Column("total_file_size", "count", "Uploaded bytes", 14_336),
    _LAST_USED,
)
_MERCHANT = Column("merchant_id", "text", "Merchant", "merchant-1")
_METRIC = Column("metric_type", "text", "What was counted", "orders")
_METRIC_VALUE = Column("metric_value", "count", "How many", 31)
_MODEL = (
    Column("provider", "text", "Provider of the model", "openai"),
    Column("model", "text", "Model, as the clients name it", "gpt-4o"),
)
_UNITS = (
    Column("cache_read_tokens", "count", "Of inputTokens, those read from a cache of the provider", 540_000),
    Column("cache_write_tokens", "count", "Of inputTokens, those written to a cache of the provider", 0),
    Column("reasoning_tokens", "count", "Of outputTokens, thoughts that are not in the answers", 36_000),
    Column("input_audio_tokens", "count", "Of inputTokens, those of audio", 0),
    Column("output_audio_tokens", "count", "Of outputTokens, those of audio", 0),
    Column("input_image_tokens", "count", "Of inputTokens, those of images", 0),
    Column("output_image_tokens", "count", "Of outputTokens, those of images", 0),
    Column("unattributed_tokens", "count", "Of totalTokens, those told neither as input nor as output", 0),
    Column(
        "other_units",
        "units",
        "Counts of all other units, by their names in the price package; text of JSON in CSV and Parquet",
        MappingProxyType({"cache_write_1h_tokens": 9_000, "web_searches": 40}),
    ),
)
_COSTS = (
    Column(
        "cost_usd",
        "money",
        "US dollars: per request what the sender was charged, or else the list price; null when neither is known",
        "3.51",
        is_nullable=True,
    ),
    Column("list_cost_usd", "money", "US dollars by list prices, over all requests", "3.465", is_nullable=True),
    Column("reported_cost_usd", "money", "US dollars that senders say they were charged", "0.09", is_nullable=True),
    Column("reported_requests", "count", "Requests that are in reportedCostUsd", 30),
    Column("unpriced_requests", "count", "Requests that are not in costUsd", 0),
    Column("unlisted_requests", "count", "Requests that are not in listCostUsd", 0),
)
_MODEL_COLUMNS = (
    Column("requests", "count", "Requests, all outcomes", 1_200),
    Column("errors", "count", "Requests that count as errors", 12),
    Column("input_tokens", "count", "Tokens of the prompts, cached, audio and image ones among them", 1_080_000),
    Column("output_tokens", "count", "Generated tokens, reasoning, audio and image ones among them", 144_000),
    Column("total_tokens", "count", "All tokens", 1_224_000),
    *_UNITS,
    *_COSTS,
)

API_KEYS = Resource(
    "api-keys",
    "API keys",
    Listing("usage_api_keys", (_API_KEY, *_API_KEY_COUNTS, _LAST_USED), ("api_key_id",), has_days=False),
    Listing(
        "usage_api_keys_daily",
        (_DAY, _API_KEY, *_API_KEY_COUNTS, _LAST_USED),
        ("usage_date", "api_key_id"),
        has_days=True,
    ),
    MappingProxyType({"api_key_id": "Only this API key"}),
    Balance("api_key_id", tuple(column.name for column in _API_KEY_COUNTS)),
)
TOKENS = Resource(
    "tokens",
    "API tokens",
    Listing(
        "usage_tokens",
        (
            _TOKEN,
            Column("name", "text", "The name that its owner gave it; null for tokens of other systems", "loader", True),
            Column("quota", "count", "Requests per day; null: no limit", 1_000, True),
            _USES,
            _LAST_USED,
            Column("created_at", "time", "When it was made, or first seen", "2026-11-01T08:00:00Z"),
            Column("expires_at", "time", "When it ends; null: never", "2027-11-01T08:00:00Z", True),
            Column("revoked_at", "time", "When it was revoked, if it was", "2026-11-19T17:30:00Z", True),
        ),
        ("token_id",),
        has_days=False,
    ),
    Listing("usage_tokens_daily", (_DAY, _TOKEN, _USES, _LAST_USED), ("usage_date", "token_id"), has_days=True),
    MappingProxyType({"token_id": "Only this token"}),
    Balance("token_id", ("usage_count",)),
)
PROVIDERS = Resource(
    "providers",
    "API keys and the storage providers that they upload to",
    Listing("usage_providers", (_API_KEY, _PROVIDER, *_PROVIDER_COLUMNS), ("api_key_id", "provider"), has_days=False),
    Listing(
        "usage_providers_daily",
        (_DAY, _API_KEY, _PROVIDER, *_PROVIDER_COLUMNS),
        ("usage_date", "api_key_id", "provider"),
        has_days=True,
    ),
    MappingProxyType(
        {
            "api_key_id": "Only this API key",
            "provider": "Only this storage provider",
            "user_id": "Only keys of this user",
        }
    ),
)
MERCHANTS = Resource(
    "merchants",
    "merchants and their metrics",
    Listing(
        "usage_merchants",
        (
            _MERCHANT,
            _METRIC,
            _METRIC_VALUE,
            Column("first_date", "day", "First day with the metric", "2026-11-01"),
            Column("last_date", "day", "Last day with the metric", "2026-11-20"),
        ),
        ("merchant_id", "metric_type"),
        has_days=False,
    ),
    Listing(
        "usage_merchants_daily",
        (_DAY, _MERCHANT, _METRIC, _METRIC_VALUE),
        ("usage_date", "merchant_id", "metric_type"),
        has_days=True,
    ),
    MappingProxyType({"merchant_id": "Only this merchant", "metric_type": "Only this metric"}),
)
MODELS = Resource(
    "models",
    "LLM models",
    Listing("usage_models", (*_MODEL, *_MODEL_COLUMNS), ("provider", "model"), has_days=False),
    Listing(
        "usage_models_daily",
        (_DAY, *_MODEL, *_MODEL_COLUMNS),
        ("usage_date", "provider", "model"),
        has_days=True,
    ),
    MappingProxyType(
        {
            "provider": "Only this provider of models",
            "model": "Only this model",
            "team": "Only what this team used",
            "service": "Only what this service used",
        }
    ),
    is_by_team=True,
)
_BOUND = "null for a bound token, since it cannot be told apart by team"
RESOURCES = (API_KEYS, TOKENS, PROVIDERS, MERCHANTS, MODELS)

# What a bound token gets a null for.
UNBOUND_OF_SUMMARY = (
    Column("api_key_requests", "count", f"Requests of all API keys; {_BOUND}", 12_000, True),
    Column("failed_api_key_requests", "count", f"Requests of API keys that failed; {_BOUND}", 120, True),
    Column("files_uploaded", "count", f"Files that API keys uploaded; {_BOUND}", 9_000, True),
    Column("token_requests", "count", f"Requests with API tokens; {_BOUND}", 800, True),
)
SUMMARY = Listing(
    "usage_summary",
    (
        _DAY,
        *UNBOUND_OF_SUMMARY,
        Column("model_requests", "count", "Requests to LLM models", 4_000),
        Column("model_errors", "count", "Requests to LLM models that count as errors", 80),
        Column("input_tokens", "count", "Tokens of the prompts, cached, audio and image ones among them", 4_600_000),
        Column("output_tokens", "count", "Generated tokens, reasoning, audio and image ones among them", 600_000),
        Column("total_tokens", "count", "Tokens of all models", 5_200_000),
        *_UNITS,
        *_COSTS,
    ),
    ("usage_date",),
    has_days=True,
)
