"""The numbers of a report as people read them, and its message."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from usage_pipeline.explore.changes import Change
from usage_pipeline.reports.contents import Contents
from usage_pipeline.texts import counted, shortened, without_mentions

_DEAREST = 5
_NOTHING = "–"
_STEPS = ((Decimal(10) ** 12, "T"), (Decimal(10) ** 9, "B"), (Decimal(10) ** 6, "M"), (Decimal(10) ** 4, "k"))


def amount(value: Decimal | None, *, signed: bool = False) -> str:
    """US dollars: to the cent, what is less to four places, large ones to the dollar."""
    if value is None:
        return _NOTHING
    size = abs(value)
    places = 4 if 0 < size < Decimal("0.01") else 2 if size < 10_000 else 0
    sign = ("−" if value < 0 else "+" if signed and value > 0 else "") if round(size, places) else ""
    return f"{sign}${size:,.{places}f}"


def count(value: int | None) -> str:
    """A count in at most four digits and a letter."""
    if value is None:
        return _NOTHING
    for step, letter in _STEPS:
        if value >= step:
            size = value / (step if letter != "k" else Decimal(1_000))
            return f"{size:,.{0 if size >= 100 else 1}f}{letter}"
    return f"{value:,}"


def difference(now: Any, before: Any) -> str:
    """By how much a value changed, in per cent of the one before; nothing where one of them is not known."""
    if now is None or before is None:
        return _NOTHING
    if not before:
        return "new" if now else _NOTHING
    share = (Decimal(now) - Decimal(before)) / Decimal(before) * 100
    if abs(share) >= 1_000:
        return f"×{Decimal(now) / Decimal(before):,.0f}"
    places = 1 if 0 < abs(share) < 10 else 0
    sign = "−" if share < 0 else "+"
    return "±0 %" if not round(share, places) else f"{sign}{abs(share):.{places}f} %"


def share_of(value: Decimal | None, total: Decimal) -> str:
    """A part of a whole, in per cent."""
    return _NOTHING if not value or not total else f"{value / total * 100:.0f} %"


def parts_of(change: Change) -> Sequence[tuple[str, Decimal]]:
    """Why a cost changed, by name, as the page calls the parts; none where no cost is known."""
    parts = (
        ("Volume", change.volume_usd),
        ("Mix of models", change.mix_usd),
        ("Tokens per request", change.tokens_per_request_usd),
        ("Cache", change.cache_usd),
        ("Price", change.price_usd),
        ("Cost became known or unknown", change.coverage_usd),
    )
    return [(name, value) for name, value in parts if value is not None]


def unpriced(requests: int | None) -> str:
    """That some requests are not in the cost; empty when all are."""
    if not requests:
        return ""
    return f"{counted(requests, 'request')} without a known price {'is' if requests == 1 else 'are'} not in the cost."


def message(contents: Contents) -> str:
    """A report as a text: what it cost, of whom, and why that changed."""
    now, before, report = contents.totals, contents.totals_before, contents.report
    lines = [
        f"{report.days.first} to {report.days.last}, {contents.time_zone}. As of {contents.as_of:%Y-%m-%d %H:%M} UTC.",
        f"Cost: {_compared(amount(now['cost_usd']), now['cost_usd'], amount(before['cost_usd']), before['cost_usd'])}",
        f"Requests: {_compared(count(now['requests']), now['requests'], count(before['requests']), before['requests'])}",
        f"Errors: {_compared(count(now['errors']), now['errors'], count(before['errors']), before['errors'])}",
    ]
    for title, shares in (("Teams", contents.teams), ("Models", contents.models)):
        dearest = [f"{shortened(one.name, 60)} {amount(one.cost_usd)}" for one in shares if one.cost_usd][:_DEAREST]
        if dearest:
            lines.append(f"{title} that cost most: {', '.join(dearest)}")
    if contents.change is not None:
        parts = [f"{name.lower()} {amount(value, signed=True)}" for name, value in parts_of(contents.change) if value]
        if parts:
            lines.append(f"Why the cost changed: {', '.join(parts)}")
    lines += [said for said in [unpriced(now["unpriced_requests"])] if said]
    # Each line for itself: a line break in a name is told as one.
    return "\n".join(map(without_mentions, lines))


def _compared(shown: str, now: Any, shown_before: str, before: Any) -> str:
    return f"{shown} (before: {shown_before}, {difference(now, before)})" if before is not None else shown
