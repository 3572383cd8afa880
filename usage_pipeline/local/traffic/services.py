"""Usage of made-up services over some weeks, as their clients send it, and what it is in units. The same seed makes the same.

Each service says what it used in its own way: plain counts, units of the price package, or its provider's own object. One moves
to a dearer model, one gets slower, one misspells its model.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

MOVED_DAYS_AGO = 13
MOVED_SERVICE, SMALL_MODEL, LARGE_MODEL = "chat", "gpt-4o-mini", "gpt-4o"
# Not the package's spelling, gpt-4o-mini: no price is known for it.
UNPRICED = ("openai", "gpt4o-mini")
# Of these only own prices know what they cost: an alias and prices of one's own.
ALIASED, OWN_PRICED = ("azure", "demo-support"), ("house", "demo-llama-70b")
Units = Mapping[str, int]

_NAMESPACE = uuid.UUID("6f9b1a6e-6c0f-4f6e-9c27-0d5a4b8f2a11")
_TEAMS = ("search", "support", "billing", "research")
_ERRORS = ((429, "rate_limit"), (500, "server_error"), (504, "timeout"))
# Providers differ in how often they fail: something to find for who asks.
_ERROR_SHARES = {"openai": 0.02, "anthropic": 0.03, "google": 0.06, "azure": 0.02, "house": 0.01}
# Monday to Sunday; and the hours of a day, of people at work.
_WEEK = (1.0, 1.1, 1.1, 1.0, 0.9, 0.35, 0.3)
_HOURS = (0, 0, 0, 0, 0, 0, 4, 8, 12, 14, 14, 12, 9, 12, 14, 13, 11, 8, 5, 4, 3, 0, 0, 0)
_NIGHTLY_HOUR = 2
_SLOWER_SERVICE, _SLOWER_BY_DAY = "summaries", 1.02
# What the contract of the aliased model gives on its list price.
_CHARGED_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event as its client sends it, and the counts by unit that it means."""

    event: Mapping[str, Any]
    units: Units

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.event["event_time"])

    def day(self, zone: ZoneInfo) -> date:
        return self.at.astimezone(zone).date()


@dataclass(frozen=True, slots=True)
class _Usage:
    """What one request used: the model, the counts, and the members of the event that say so."""

    provider: str
    model: str
    units: Units
    members: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


def made_up_usage(
    seed: int, count: int, days: list[date], *, now: datetime, zone: ZoneInfo, mark: str
) -> list[SentEvent]:
    """About so many events of these days up to `now`, which is on the last one, in the order of their times.

    The last one is of now. `mark` ends the ids of the users.
    """
    chance = random.Random(seed)  # noqa: S311  # made-up traffic, reproducible by its seed
    moved_on = days[-1] - timedelta(days=MOVED_DAYS_AGO)
    moments = sorted(_moments(chance, count, days, zone))
    past = [(at, service) for at, service in moments if at < now]
    # Today, too, however early it is.
    calls = [*past, (now, _SERVICES[MOVED_SERVICE])]
    return [
        _sent(chance, f"{seed}:{number}", at, at.astimezone(zone).date(), service, moved_on, days[0], mark)
        for number, (at, service) in enumerate(calls)
    ]


def _moments(
    chance: random.Random, count: int, days: list[date], zone: ZoneInfo
) -> Iterator[tuple[datetime, "_Service"]]:
    services = list(_SERVICES.values())
    weights = [service.share for service in services]
    for day in chance.choices(days, [_WEEK[day.weekday()] for day in days], k=count):
        service = chance.choices(services, weights)[0]
        hour = _NIGHTLY_HOUR if service.is_nightly else chance.choices(range(24), _HOURS)[0]
        into = timedelta(hours=hour, milliseconds=chance.randrange(3_600_000))
        yield datetime.combine(day, time(0), zone).astimezone(UTC) + into, service


def _sent(
    chance: random.Random,
    name: str,
    at: datetime,
    day: date,
    service: "_Service",
    moved_on: date,
    first_day: date,
    mark: str,
) -> SentEvent:
    team = chance.choice(service.teams)
    user = len(_TEAMS) * min(int(chance.paretovariate(0.9)), 15) + _TEAMS.index(team)
    used = service.use(chance, day >= moved_on)
    has_failed = chance.random() < _ERROR_SHARES[used.provider]
    slowness = _SLOWER_BY_DAY ** (day - first_day).days if service.name == _SLOWER_SERVICE else 1.0
    milliseconds = slowness * (200 + 6 * used.units["output_tokens"] * chance.uniform(0.8, 1.4))
    event = {
        "event_id": str(uuid.uuid5(_NAMESPACE, f"{name}:{at.isoformat()}")),
        "event_time": at.isoformat(timespec="milliseconds"),
        "user_id": f"user-{user:02d}-{mark}" if mark else f"user-{user:02d}",
        "team": team,
        "service": service.name,
        "provider": used.provider,
        "model": used.model,
        "latency_ms": round(milliseconds),
        "status_code": 200,
        "tags": {"project": service.project},
    }
    if not has_failed:
        return SentEvent({**event, **used.members, **used.extra}, used.units)
    # It has no usage object: the client counted its input, and there is no output.
    status, error = chance.choice(_ERRORS)
    plain = {"input_tokens": used.units["input_tokens"], "output_tokens": 0}
    return SentEvent({**event, **plain, "status_code": status, "error_type": error}, plain)


def _chat(chance: random.Random, is_moved: bool) -> _Usage:
    """OpenAI's chat API: the long prompt of the system is cached, in steps of 128 tokens."""
    prompt, answer = chance.randrange(1_500, 6_000), chance.randrange(80, 600)
    cached = 128 * (prompt * 6 // 10 // 128) if chance.random() < 0.7 else 0
    told = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    units = {"input_tokens": prompt, "output_tokens": answer, "cache_read_tokens": cached}
    return _Usage("openai", LARGE_MODEL if is_moved else SMALL_MODEL, units, {"provider_usage": told})


def _summaries(chance: random.Random, _: bool) -> _Usage:
    """Anthropic's own counts: `input_tokens` leaves out what is cached."""
    uncached, answer = chance.randrange(50, 1_500), chance.randrange(200, 900)
    written = chance.randrange(2_000, 9_000) if chance.random() < 0.2 else 0
    read = 0 if written else chance.randrange(2_000, 9_000)
    told = {
        "input_tokens": uncached,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": answer,
    }
    units = {
        "input_tokens": uncached + written + read,
        "output_tokens": answer,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "cache_write_5m_tokens": written,
    }
    return _Usage("anthropic", "claude-sonnet-4-5", units, {"provider_usage": told})


def _classifier(chance: random.Random, _: bool) -> _Usage:
    """Gemini's own counts: thoughts stand beside the answer."""
    prompt, answer, thoughts = chance.randrange(100, 900), chance.randrange(5, 60), chance.randrange(100, 1_500)
    told = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": answer,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + answer + thoughts,
    }
    units = {"input_tokens": prompt, "output_tokens": answer + thoughts, "output_reasoning_tokens": thoughts}
    return _Usage("google", "gemini-2.5-flash", units, {"provider_usage": told})


def _reports(chance: random.Random, _: bool) -> _Usage:
    """At night, at half the price."""
    units = {"input_tokens": chance.randrange(5_000, 60_000), "output_tokens": chance.randrange(500, 3_000)}
    return _Usage("openai", "gpt-4o-mini", units, units, {"service_tier": "batch"})


def _voice(chance: random.Random, _: bool) -> _Usage:
    """Speech in and out, told as units of the price package."""
    heard, said, text = chance.randrange(300, 2_000), chance.randrange(200, 1_500), chance.randrange(100, 800)
    totals = {"input_tokens": heard + text, "output_tokens": said + text // 4}
    audio = {"input_audio_tokens": heard, "output_audio_tokens": said}
    return _Usage("openai", "gpt-4o-realtime-preview", {**totals, **audio}, {**totals, "usage": audio})


def _help_desk(chance: random.Random, _: bool) -> _Usage:
    """A deployment with a name of its own. Its invoice says what each request cost."""
    units = {"input_tokens": chance.randrange(2_000, 20_000), "output_tokens": chance.randrange(100, 900)}
    list_usd = (units["input_tokens"] * 0.15 + units["output_tokens"] * 0.6) / 1_000_000
    return _Usage(*ALIASED, units, units, {"cost_usd": f"{list_usd * _CHARGED_SHARE:.8f}"})


def _reranker(chance: random.Random, _: bool) -> _Usage:
    """A model on machines of one's own."""
    units = {"input_tokens": chance.randrange(1_000, 8_000), "output_tokens": chance.randrange(10, 90)}
    return _Usage(*OWN_PRICED, units, units)


def _experiments(chance: random.Random, _: bool) -> _Usage:
    """Somebody left out a hyphen."""
    units = {"input_tokens": chance.randrange(200, 4_000), "output_tokens": chance.randrange(50, 700)}
    return _Usage(*UNPRICED, units, units)


@dataclass(frozen=True, slots=True)
class _Service:
    """Its share of all requests, the teams that pay, and how it uses models: before and after one of them moved."""

    name: str
    share: float
    teams: tuple[str, ...]
    project: str
    use: Callable[[random.Random, bool], _Usage]
    is_nightly: bool = False


_SERVICES = {
    one.name: one
    for one in (
        _Service(MOVED_SERVICE, 0.34, ("support", "search"), "assistant", _chat),
        _Service(_SLOWER_SERVICE, 0.20, ("research", "billing"), "digest", _summaries),
        _Service("classifier", 0.21, ("support", "billing"), "triage", _classifier),
        _Service("reports", 0.07, ("billing",), "month-end", _reports, is_nightly=True),
        _Service("voice", 0.02, ("support",), "assistant", _voice),
        _Service("help-desk", 0.07, ("support",), "triage", _help_desk),
        _Service("reranker", 0.06, ("search",), "search", _reranker),
        _Service("experiments", 0.03, ("research",), "lab", _experiments),
    )
}
