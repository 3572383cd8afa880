"""What a channel is told: one alert, or many of a rule together, as title and text. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from usage_pipeline.alerting.alert import Severity
from usage_pipeline.alerting.sending.channels import MOST_LENGTH, length, shortened
from usage_pipeline.texts import counted, without_mentions

Kind = Literal["raised", "cleared"]

# More of one rule at once are one message.
MOST_SINGLE = 3
# So many messages of a rule a channel gets in LATELY; what comes meanwhile is told together after that.
MOST_LATELY = 5
# A message about many names so many.
_MOST_NAMED = 10
_LEAST_TEXT_LENGTH = 80
_LEAST_LINE_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Due:
    """An alert that a channel is to be told of, or its end.

    `was_told`: the channel was told of the alert itself before. `is_new`: that was never tried.
    """

    channel: str
    kind: Kind
    alert_id: int
    rule: str
    severity: Severity
    title: str
    text: str
    remedy: str
    link: str | None
    ending: str
    first_at: datetime
    last_at: datetime
    count: int
    was_told: bool
    is_new: bool = False
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message: an alert, or several of one rule, all of one kind."""

    alerts: tuple[Due, ...]

    @property
    def kind(self) -> Kind:
        return self.alerts[0].kind

    @property
    def rule(self) -> str:
        return self.alerts[0].rule

    @property
    def severity(self) -> Severity:
        return "failure" if any(one.severity == "failure" for one in self.alerts) else "warning"

    @property
    def alert_ids(self) -> list[int]:
        return [one.alert_id for one in self.alerts]


def messages_of(
    due: Sequence[Due], lately: Mapping[tuple[Kind, str], int], most_lately: int = MOST_LATELY
) -> list[Message]:
    """The messages for one channel, the most urgent first: what begins before what ends, failures before warnings.

    What it did not take before goes last, so that a message that it refuses holds up no other. `lately` says how many messages
    of each kind and rule it got in the last minutes; a rule that has used its share waits.
    """
    groups: defaultdict[tuple[Kind, str], list[Due]] = defaultdict(list)
    for one in due:
        groups[one.kind, one.rule].append(one)
    found = []
    for key, members in groups.items():
        left = most_lately - lately.get(key, 0)
        if left <= 0:
            continue
        if len(members) <= min(MOST_SINGLE, left):
            found += [Message((one,)) for one in members]
        else:
            found.append(Message(tuple(members)))
    return sorted(found, key=_urgency)


def _urgency(message: Message) -> tuple[int, bool, bool, int]:
    attempts = min(one.attempts for one in message.alerts)
    return attempts, message.kind == "cleared", message.severity != "failure", message.alerts[0].alert_id


def titled(message: Message) -> str:
    """The title as it is sent: one line that calls nobody."""
    first, more = message.alerts[0], len(message.alerts) - 1
    title = f"{more + 1} alerts of {message.rule}: {first.title}, and {more} more" if more else first.title
    return without_mentions(f"[usage_pipeline] {'Cleared: ' if message.kind == 'cleared' else ''}{title}")


def written(message: Message, most: int = MOST_LENGTH) -> str:
    """The body as it is sent, at most so long (`channels.length`): what happened is cut before what to do."""
    first = message.alerts[0]
    if len(message.alerts) > 1:
        return _listed(message, most)
    minutes = (first.last_at - first.first_at).total_seconds() / 60
    text = without_mentions(first.text)
    if message.kind == "cleared":
        times = f"{counted(first.count, 'time')} in {counted(round(minutes), 'minute')}"
        news = "" if first.was_told else "You were not told while it lasted. "
        return shortened(f"{first.ending} It was found {times}. {news}The alert was: {text}", most)
    lasting = f" (for {counted(round(minutes), 'minute')} now)" if minutes >= 1 else ""
    advice = _advice(message)
    left = most - length(lasting + advice)
    if left < _LEAST_TEXT_LENGTH:
        return shortened(text, most)
    return f"{shortened(text, left)}{lasting}{advice}"


def _listed(message: Message, most: int) -> str:
    """A line for each of the first ones, and how many more there are."""
    is_over = message.kind == "cleared"
    advice = "" if is_over else _advice(message)
    begin = "These are not found any more:" if is_over else "All of these are open:"
    rest = len(message.alerts) - _MOST_NAMED
    end = f"\nand {rest} more: `usage-pipeline alerts` lists what is open." if rest > 0 else ""
    left = most - length(begin + end + advice)
    if left < _LEAST_TEXT_LENGTH:
        advice, left = "", most - length(begin + end)
    return f"{begin}{''.join(_lines(message.alerts[:_MOST_NAMED], left))}{end}{advice}"


def _lines(alerts: Sequence[Due], most: int) -> Iterator[str]:
    for number, one in enumerate(alerts):
        share = most // (len(alerts) - number)
        if share < _LEAST_LINE_LENGTH:
            return
        line = f"\n- {shortened(without_mentions(f'{one.title}: {one.text}'), share - 4)}"
        most -= length(line)
        yield line


def _advice(message: Message) -> str:
    first = message.alerts[0]
    # Ours: an address that nobody else has a part in but as escapes.
    link = f"\n{first.link}" if first.link else ""
    return f"\nWhat to do: {without_mentions(first.remedy)}\nSee docs/alerts.md#{message.rule}{link}"
