"""What an analyst or an operator asks, and the clicks that answer it, each from the page as it begins after sign-in."""

from collections.abc import Callable
from dataclasses import dataclass

from usage_pipeline_tests.api.dashboard.usage_rig import settled
from usage_pipeline_tests.end_to_end.rigs.browser import Browser

MOST_STEPS = 6
TEAM, SERVICE, PROVIDER = "search", "chat", "anthropic"
_TABLE = "By "
_ERRORS = "Errors by type"


class Person:
    """Uses the page, and counts each click and each choice in a list."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.steps = 0

    def click(self, text: str, heading: str | None = None) -> None:
        """The first thing with this text, in the part of the page whose heading begins so."""
        self._step(lambda: self.browser.click_in(heading, text))

    def open_first_row(self) -> None:
        """Of the table, which is sorted: its requests."""
        self._step(lambda: self.browser.click_at(".groups tbody tr:first-child td.number"))

    def choose(self, label: str, option: str) -> None:
        self._step(lambda: self.browser.choose(label, option))

    def _step(self, do: Callable[[], None]) -> None:
        do()
        self.steps += 1
        settled(self.browser)


def _first_day_of_failures(person: Person) -> str:
    """The first period of the table of errors that has any, as a person finds it by reading down the last column."""
    found = person.browser.run(
        f"""const part = [...document.querySelectorAll(".figure")].find(one => one.innerText.startsWith("{_ERRORS}"));
        const line = [...part.querySelectorAll("tbody tr")].find(line => line.lastElementChild.innerText !== "0");
        return line.firstElementChild.innerText;"""
    )
    return str(found)


def why_a_team_costs_more(person: Person) -> None:
    person.choose("Days", "Last month")
    person.click(TEAM, _TABLE)
    person.choose("Compare with", "The month before")


def dearest_users(person: Person) -> None:
    person.choose("Days", "This week")
    person.choose("Group by", "Service")
    person.click(SERVICE, _TABLE)
    person.choose("Group by", "User")


def first_failure(person: Person) -> None:
    person.choose("Group by", "Provider")
    person.click(PROVIDER, _TABLE)
    person.click("Show as table", _ERRORS)
    person.click(_first_day_of_failures(person), _ERRORS)
    person.click("Show requests", "Single requests")
    person.click("Failed", "Single requests")


def slowest(person: Person) -> None:
    person.choose("Group by", "Service")
    person.choose("and by", "Model")
    person.click("Latency p95", _TABLE)


def dearest_key(person: Person) -> None:
    person.choose("Group by", "API key")
    person.open_first_row()


def cost_by_week(person: Person) -> None:
    person.choose("Days", "This quarter")
    person.click(TEAM, _TABLE)
    person.choose("Grain", "By week")
    person.click("Show as table", "Cost by week")


def cache_use(person: Person) -> None:
    person.choose("Metric", "Cached share")
    person.choose("and by", "Model")


def failed_yesterday(person: Person) -> None:
    person.choose("Days", "Yesterday")
    person.click("Show requests", "Single requests")
    person.click("Failed", "Single requests")
    person.click("Details", "Single requests")


def budget(person: Person) -> None:
    person.click("Budgets")


def export(person: Person) -> None:
    person.choose("Days", "Last month")
    person.click("CSV", _TABLE)


def month_so_far(person: Person) -> None:
    person.choose("Days", "This month")
    person.choose("Compare with", "The month before")


@dataclass(frozen=True)
class Task:
    """A question, and what a person does. `pictured` begins the heading of the part that answers it; None: all that is seen."""

    question: str
    do: Callable[[Person], None]
    pictured: str | None = None


TASKS = {
    "team": Task(
        f"What did team {TEAM} spend last month, on which model, and why more than the month before?",
        why_a_team_costs_more,
        "Why did it change",
    ),
    "users": Task(f"Who are the ten dearest users of service {SERVICE} this week?", dearest_users, _TABLE),
    "errors": Task(
        f"When did the errors of provider {PROVIDER} begin, and which type?", first_failure, "Single requests"
    ),
    "latency": Task("Which service is slowest, and on which model?", slowest, _TABLE),
    "key": Task("Which API key costs most, and what were its requests?", dearest_key),
    "weeks": Task(f"What did team {TEAM} spend each week of the quarter?", cost_by_week, "Cost by week"),
    "cache": Task("How does the use of the providers' caches differ between teams and models?", cache_use, _TABLE),
    "failed": Task("Which requests failed yesterday, and what is known of one?", failed_yesterday),
    "budget": Task(f"Will the budget of team {TEAM} hold until the end of the month?", budget, "Budgets"),
    "export": Task("How do I get last month's cost by team as CSV?", export, _TABLE),
    "month": Task("How does this month compare with the same days of the month before?", month_so_far),
}
