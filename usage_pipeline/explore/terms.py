"""What usage can be grouped by, and what can be measured of it: each dimension and metric once, with its names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from usage_pipeline.rollups.window_tables import TOKENS

Unit = Literal["requests", "tokens", "users", "usd", "ms", "share"]
Part = Literal["sums", "users", "latencies"]
TAG_PREFIX = "tag:"
MONEY = ("cost_usd", "list_cost_usd", "reported_cost_usd")


@dataclass(frozen=True, slots=True)
class Dimension:
    """What rows can be apart by. `columns` are expressions over a roll-up that tell its values apart; `shown` is the value.

    `name` is that of `group_by` and `filter.NAME`, `member` that of an item. `is_private`: only a token with the scope `users`
    sees it. `can_be_none`: there are rows without a value, which a filter finds by an empty text.
    """

    name: str
    member: str
    title: str
    columns: tuple[str, ...]
    shown: str = "{0}"
    is_private: bool = False
    can_be_none: bool = False

    @property
    def family(self) -> str:
        """Its name, or `tag` for any tag."""
        return "tag" if self.name.startswith(TAG_PREFIX) else self.name


DIMENSIONS = (
    Dimension("team", "team", "Team", ("team",)),
    Dimension("service", "service", "Service", ("service",)),
    Dimension("user", "user", "User", ("user_id",), is_private=True),
    Dimension("provider", "provider", "Provider", ("provider",)),
    Dimension("model", "model", "Model", ("model",)),
    Dimension("api_key", "apiKey", "API key", ("api_key_id",), "nullif({0}, '')", can_be_none=True),
    Dimension("error_type", "errorType", "Error type", ("coalesce(nullif(error_type, ''), 'HTTP ' || status_code)",)),
)
_BY_NAME: Mapping[str, Dimension] = {dimension.name: dimension for dimension in DIMENSIONS}


def dimension_of(name: str) -> Dimension | None:
    """The dimension of this name; for `tag:NAME` that of the tag. None for a name that is none."""
    if name.startswith(TAG_PREFIX) and name != TAG_PREFIX:
        # All values beyond those with the most requests of a day are one, which has no value.
        title = f"Tag {name.removeprefix(TAG_PREFIX)}"
        return Dimension(
            name, name, title, ("value", "is_rest"), "case when {1} then null else {0} end", is_private=True
        )
    return _BY_NAME.get(name)


def dimensions_of(*names: str) -> tuple[Dimension, ...]:
    """Those of these names, which are no tags. Raises KeyError."""
    return tuple(_BY_NAME[name] for name in names)


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured. `expression` is one over sums of columns of the same names (`needs`), or over what its part gives.

    `member` is its name in an item.
    """

    name: str
    member: str
    title: str
    unit: Unit
    description: str
    needs: tuple[str, ...] = ()
    expression: str = ""
    part: Part = "sums"
    percentile: float | None = None

    @property
    def is_exact_number(self) -> bool:
        """Whether it is a count or money, not a quotient or a time."""
        return self.unit not in ("ms", "share")


def _sum(name: str, member: str, title: str, unit: Unit, description: str) -> Metric:
    return Metric(name, member, title, unit, description, (name,), name)


def _latency(share: int, what: str) -> Metric:
    name = f"latency_p{share}_ms"
    description = f"{what} of the latencies, exact, as percentile_cont"
    title = f"Latency p{share}"
    return Metric(name, f"latencyP{share}Ms", title, "ms", description, (), name, "latencies", share / 100)


METRICS = (
    _sum("requests", "requests", "Requests", "requests", "Requests, all outcomes"),
    _sum(
        "errors", "errors", "Errors", "requests", "Requests that count as errors: a status from 400, or an error type"
    ),
    Metric(
        *("error_rate", "errorRate", "Error rate", "share", "Errors of all requests, 0 to 1"),
        needs=("errors", "requests"),
        expression="errors::float8 / nullif(requests, 0)",
    ),
    _sum("input_tokens", "inputTokens", "Input tokens", "tokens", "Tokens of the prompts, cached ones among them"),
    _sum("output_tokens", "outputTokens", "Output tokens", "tokens", "Generated tokens, reasoning among them"),
    _sum("total_tokens", "totalTokens", "Tokens", "tokens", "All tokens"),
    _sum("cache_read_tokens", "cacheReadTokens", "Cached tokens", "tokens", "Of inputTokens, those read from a cache"),
    _sum(
        *("cache_write_tokens", "cacheWriteTokens", "Cache writes", "tokens"),
        "Of inputTokens, those written to a cache",
    ),
    Metric(
        *(
            "cache_read_share",
            "cacheReadShare",
            "Cached share",
            "share",
            "Of inputTokens, the share from a cache, 0 to 1",
        ),
        needs=("cache_read_tokens", "input_tokens"),
        expression="cache_read_tokens::float8 / nullif(input_tokens, 0)",
    ),
    Metric(
        *("reasoning_tokens", "reasoningTokens", "Reasoning tokens", "tokens"),
        *("Of outputTokens, thoughts that are not in the answers", ("output_reasoning_tokens",)),
        "output_reasoning_tokens",
    ),
    _sum("input_audio_tokens", "inputAudioTokens", "Audio in", "tokens", "Of inputTokens, those of audio"),
    _sum("output_audio_tokens", "outputAudioTokens", "Audio out", "tokens", "Of outputTokens, those of audio"),
    _sum("input_image_tokens", "inputImageTokens", "Images in", "tokens", "Of inputTokens, those of images"),
    _sum("output_image_tokens", "outputImageTokens", "Images out", "tokens", "Of outputTokens, those of images"),
    _sum(
        *("unattributed_tokens", "unattributedTokens", "Tokens of no kind", "tokens"),
        "Tokens of totalTokens that clients told neither as input nor as output",
    ),
    _sum("cost_usd", "costUsd", "Cost", "usd", "Per request what the sender was charged, or else the list price"),
    _sum("list_cost_usd", "listCostUsd", "List price", "usd", "By the price version of each day, over all requests"),
    _sum("reported_cost_usd", "reportedCostUsd", "Reported cost", "usd", "What senders say they were charged"),
    Metric(
        *("cost_per_request_usd", "costPerRequestUsd", "Cost of a request", "usd"),
        "Average cost of the requests whose cost is known",
        needs=("cost_usd", "requests", "unpriced_requests"),
        expression="trim_scale(round(cost_usd / nullif(requests - unpriced_requests, 0), 12))",
    ),
    _sum("reported_requests", "reportedRequests", "Reported requests", "requests", "Requests in reportedCostUsd"),
    _sum("unpriced_requests", "unpricedRequests", "Without a price", "requests", "Requests that are not in costUsd"),
    _sum("unlisted_requests", "unlistedRequests", "Without a list price", "requests", "Requests not in listCostUsd"),
    Metric(
        *("distinct_users", "distinctUsers", "Users", "users", "Different users, exact"),
        expression="distinct_users",
        part="users",
    ),
    _latency(50, "Median"),
    _latency(95, "95th percentile"),
    _latency(99, "99th percentile"),
)
METRIC_BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
DEFAULT_METRICS = ("requests", "total_tokens", "cost_usd")
# Every column that a roll-up has sums of.
SUMMED = ("requests", "errors", *TOKENS, *MONEY, "reported_requests", "unpriced_requests", "unlisted_requests")
