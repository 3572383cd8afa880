"""Usage of a quarter and more, with something to be found for each task; made anew for the day on which a test runs."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from usage_pipeline_tests.api.dashboard.tasks import PROVIDER, SERVICE, TEAM
from usage_pipeline_tests.rigs.events import event

# The errors of the provider began so many days ago, at this time.
ERRORS_BEGAN_DAYS_AGO, ERRORS_BEGAN_AT = 9, "13:05:00"
USERS = 14
_DEAR, _CHEAP = ("openai", "gpt-4o"), ("openai", "gpt-4o-mini")
# Days of a month on which the team works: as many in each month, so that only the model makes a difference.
_WORKING_DAYS = 20


def month_start(day: date) -> date:
    return day.replace(day=1)


def month_before(day: date) -> date:
    """The first day of the month before that of a day."""
    return month_start(month_start(day) - timedelta(days=1))


def quarter_start(day: date) -> date:
    return date(day.year, day.month - (day.month - 1) % 3, 1)


def week_start(day: date) -> date:
    return day - timedelta(days=day.weekday())


def events_until(today: date) -> list[dict[str, Any]]:
    """As clients send them, from two months before this one and from the start of the quarter at the latest."""
    first = min(quarter_start(today), month_before(month_before(today)))
    days = [first + timedelta(days=number) for number in range((today - first).days + 1)]
    return [one for day in days for one in (*_of_team(day, today), *_of_provider(day, today), *_of_users(day, today))]


def _at(day: date, today: date, time: str, **members: Any) -> dict[str, Any]:
    """Today's are at midnight, which is over."""
    return event(event_time=f"{day}T{'00:00:00' if day == today else time}+00:00", **members)


def _of_team(day: date, today: date) -> Iterator[dict[str, Any]]:
    """The same requests each month: with a cheap model until the month before last, and with a dear one from then on."""
    provider, model = _DEAR if day >= month_before(today) else _CHEAP
    for number in range(3 if day.day <= _WORKING_DAYS else 0):
        yield _at(
            *(day, today, f"{9 + number:02}:20:00"),
            team=TEAM,
            service="assistant",
            provider=provider,
            model=model,
            user_id=f"analyst-{number}",
            api_key_id="key-search",
            input_tokens=42_000,
            output_tokens=1_800,
            usage={"cache_read_tokens": 12_000},
            latency_ms=900 + 37 * day.day + 11 * number,
        )


def _of_provider(day: date, today: date) -> Iterator[dict[str, Any]]:
    """A slow model of the provider, which fails from a certain moment on; another provider has failed all the time."""
    common = {"team": "billing", "service": "summaries", "user_id": "invoices", "api_key_id": "key-billing"}
    for number in range(2):
        yield _at(
            *(day, today, f"{10 + number}:40:00"),
            **common,
            provider=PROVIDER,
            model="claude-sonnet-4-5",
            input_tokens=20_000,
            output_tokens=900,
            usage={"cache_read_tokens": 15_000},
            latency_ms=3_100 + 53 * day.day + 29 * number,
        )
    failed = {**common, "input_tokens": 20_000, "output_tokens": 0, "latency_ms": 200}
    yield _at(
        *(day, today, "08:15:00"), **failed, provider="openai", model="gpt-4o", status_code=429, error_type="rate_limit"
    )
    began = today - timedelta(days=ERRORS_BEGAN_DAYS_AGO)
    for number in range(3 if began <= day < today else 0):
        moment = ERRORS_BEGAN_AT if number == 0 else f"{14 + number}:30:00"
        yield _at(
            *(day, today, moment),
            **failed,
            provider=PROVIDER,
            model="claude-sonnet-4-5",
            status_code=529,
            error_type="overloaded",
        )


def _of_users(day: date, today: date) -> Iterator[dict[str, Any]]:
    """In this week others use the service most than in the week before."""
    if day < today - timedelta(days=13):
        return
    is_this_week = day >= week_start(today)
    for number in range(USERS):
        size = number + 1 if is_this_week else 4 * (USERS - number)
        yield _at(
            *(day, today, "11:00:00"),
            team="support",
            service=SERVICE,
            user_id=f"agent-{number:02}",
            api_key_id="key-support" if number % 2 else "key-support-trial",
            input_tokens=3_000 * size,
            output_tokens=100 * size,
            latency_ms=250 + 17 * number,
        )
