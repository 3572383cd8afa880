"""The page of a month: its table, the form to sign in, and what is said where there is neither."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from http import HTTPStatus
from xml.etree.ElementTree import Element
from zoneinfo import ZoneInfo

from usage_pipeline.api.month.costs import Line, Month, Spent, decimals_of, money
from usage_pipeline.api.month.markup import Child, page, tag
from usage_pipeline.texts import counted

# The first that may be asked for: long before anything was sent.
FIRST_YEAR = 2000
# Relative to the page itself, so that a proxy may serve it under a prefix.
PATH = "month"
TOKEN, SIGN_OUT = "token", "sign-out"  # names of fields


def month_page(month: Month, as_of: datetime, today: date, zone: ZoneInfo, *, bounds: str, can_sign_out: bool) -> bytes:
    """The table, as of a moment. `bounds` says to what a token is bound, or is empty."""
    first = month.days.first
    is_running = today <= month.days.last
    title = f"Cost of {_name(first)} by team"
    notes: list[str] = []
    if is_running:
        notes.append(f"{_name(first)} is not over: {_name(month.days_before.first)} beside it is a whole month.")
    notes += _unpriced(month)
    if month.team_count > len(month.lines):
        notes.append(
            f"These are the {len(month.lines):,} teams with the highest cost, of {month.team_count:,}; the total is theirs."
        )
    if bounds:
        notes.append(f"You see only what belongs to {bounds}.")
    return page(
        title,
        tag(
            "div",
            tag("h1", title),
            tag("p", tag("span", f"As of {_moment(as_of, zone)}"), class_="note"),
            class_="headline",
        ),
        _links(month, today),
        tag(
            "section",
            _table(month) if month.lines else tag("p", "No usage in these two months.", class_="empty"),
            *(tag("p", note, class_="note") for note in notes),
            class_="card",
            aria_label="Cost by team",
        ),
        *([_form(SIGN_OUT, tag("button", "Sign out", type="submit", class_="quiet"))] if can_sign_out else []),
    )


def sign_in_page(trouble: str) -> bytes:
    """The form. `trouble` says what was wrong with what came, or is empty."""
    field = tag(
        "input",
        id="token",
        name=TOKEN,
        type="password",
        required="",
        autocomplete="off",
        spellcheck="false",
        class_="wide",
    )
    return page(
        "Sign in",
        tag(
            "section",
            tag("h1", "Sign in"),
            tag(
                "p",
                "You need a token with the scope ",
                tag("code", "read"),
                ", or an invitation. Without JavaScript the link of an invitation does not open by itself: "
                "paste the whole link here.",
            ),
            tag(
                "form",
                tag("label", "Token or link", for_="token"),
                tag("div", field, tag("button", "Open", type="submit"), class_="row"),
                method="post",
                action=PATH,
            ),
            *_notice(trouble),
            class_="card gate",
        ),
    )


def trouble_page(status: int, detail: str, *, can_sign_out: bool) -> bytes:
    """What cannot be shown, and why."""
    title = HTTPStatus(status).phrase
    return page(
        title,
        tag("h1", title),
        *_notice(detail),
        tag("p", tag("a", "The cost of this month", href=PATH)),
        *([_form(SIGN_OUT, tag("button", "Sign out", type="submit", class_="quiet"))] if can_sign_out else []),
    )


def _form(name: str, button: Element) -> Element:
    return tag("form", tag("input", type="hidden", name=name, value="1"), button, method="post", action=PATH)


def _notice(text: str) -> list[Element]:
    return [tag("p", f"{text[0].upper()}{text[1:].rstrip('.')}.", class_="notice", role="alert")] if text else []


def _links(month: Month, today: date) -> Element:
    before, after = month.days_before.first, month.days.until
    links: list[Child] = []
    if before.year >= FIRST_YEAR:
        links += [tag("a", f"← {_name(before)}", href=f"{PATH}?month={before:%Y-%m}"), " "]
    if after <= today:
        links += [tag("a", f"{_name(after)} →", href=f"{PATH}?month={after:%Y-%m}")]
    return tag("nav", *links, class_="months", aria_label="Other months")


def _unpriced(month: Month) -> list[str]:
    found = [
        f"{counted(spent.unpriced_requests, 'request')} of {_name(days.first)}"
        for spent, days in ((month.now, month.days), (month.before, month.days_before))
        if spent.unpriced_requests
    ]
    return [f"Not in the cost, since no price is known: {' and '.join(found)}."] if found else []


def _table(month: Month) -> Element:
    decimals = decimals_of([one.cost_usd for line in month.lines for one in (line.now, line.before)])
    titles = ("Requests", f"Cost of {_short(month.days.first)}", "Share", f"Cost of {_short(month.days_before.first)}")
    whole = month.now.cost_usd

    def cells(now: Spent, before: Spent) -> Sequence[Element]:
        written = (
            f"{now.requests:,}" if now.requests else "–",
            money(now.cost_usd, decimals),
            _share(now.cost_usd, whole),
            money(before.cost_usd, decimals),
        )
        return [tag("td", text, class_="number") for text in written]

    def row(line: Line) -> Element:
        # Kept apart from what stands beside it, whichever way its letters run.
        return tag("tr", tag("th", tag("bdi", line.team or "none"), scope="row"), *cells(line.now, line.before))

    head = tag(
        "tr", tag("th", "Team", scope="col"), *(tag("th", title, scope="col", class_="number") for title in titles)
    )
    table = tag(
        "table",
        tag("thead", head),
        tag("tbody", *(row(line) for line in month.lines)),
        tag("tfoot", tag("tr", tag("th", "Total", scope="row"), *cells(month.now, month.before))),
    )
    return tag("div", table, class_="scroll plain", tabindex="0", role="group", aria_label="Cost by team, a table")


def _share(cost: Decimal | None, whole: Decimal | None) -> str:
    return "–" if cost is None or not whole else f"{100 * cost / whole:.1f}%"


def _name(day: date) -> str:
    return f"{day:%B %Y}"


def _short(day: date) -> str:
    return f"{day:%b %Y}"


def _moment(moment: datetime, zone: ZoneInfo) -> str:
    at = moment.astimezone(zone)
    return f"{at.day} {at:%B %Y, %H:%M}, {zone.key}"
