"""Sends the messages of alerts, each channel on its own. Nothing here retries or raises: a later evaluation tries again."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from usage_pipeline.alerting.channels import MOST_LENGTH, Sending, Text, length, named, shortened
from usage_pipeline.alerting.record import Message
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted, without_mentions

LOG_ONLY = "log"
_log = logging.getLogger(__name__)
_LEAST_TEXT_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Outcome:
    """Channels that accepted a message, and one line on those that did not (None: all did)."""

    accepted: tuple[str, ...]
    error: str | None


@dataclass(slots=True)
class Courier:
    """The channels of ALERT_URLS for one evaluation. A channel that failed gets no more messages in this evaluation."""

    channels: Sequence[SecretStr]
    timeout_seconds: float
    _down: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "Courier":
        return cls(settings.alert_channels, settings.alert_timeout_seconds)

    def send(self, message: Message) -> Outcome:
        """Logs the message, and sends it at the same time to all channels that do not have it yet.

        That an alert is over goes to those that were told of it.
        """
        if not message.delivered_to:
            level = logging.WARNING if message.pending == "raised" else logging.INFO
            line = written(message).replace("\n", " ")
            _log.log(level, "alert %d (%s): %s: %s", message.alert_id, message.rule, titled(message), line)
        wanted = [
            (name, url)
            for name, url in named(self.channels)
            if message.pending == "raised" or message.told is None or name in message.told
        ]
        if not wanted:
            return Outcome((LOG_ONLY,), None)
        sending = [
            Sending(name, url, self.timeout_seconds)
            for name, url in wanted
            if name not in message.delivered_to and name not in self._down
        ]
        for one in sending:
            one.start(Text(titled(message), lambda most: written(message, most), _kind_of(message)))
        for one in sending:
            if problem := one.problem():
                self._down[one.name] = problem
                _log.warning("alert %d: %s: %s; it is tried again", message.alert_id, one.name, problem)
        accepted = tuple(one.name for one in sending if one.name not in self._down)
        return Outcome(accepted, self._error([name for name, _ in wanted], {*accepted, *message.delivered_to}))

    def _error(self, wanted: Collection[str], have_it: Collection[str]) -> str | None:
        missing = [name for name in wanted if name not in have_it]
        return "; ".join(f"{name}: {self._down.get(name, 'not sent')}" for name in missing) or None


def titled(message: Message) -> str:
    """The title as it is sent: one line that calls nobody."""
    return without_mentions(f"[usage_pipeline] {'Cleared: ' if message.pending == 'cleared' else ''}{message.title}")


def written(message: Message, most: int = MOST_LENGTH) -> str:
    """The body as it is sent, at most so long (`channels.length`): what happened is cut before what to do."""
    minutes = (message.last_at - message.first_at).total_seconds() / 60
    text = without_mentions(message.text)
    if message.pending == "cleared":
        times = f"{counted(message.count, 'time')} in {counted(round(minutes), 'minute')}"
        before = f"This is over. It was found {times}. The alert was: "
        return shortened(before + text, most)
    lasting = f" (for {counted(round(minutes), 'minute')} now)" if minutes >= 1 else ""
    advice = f"\nWhat to do: {without_mentions(message.remedy)}\nSee docs/alerts.md#{message.rule}"
    left = most - length(lasting + advice)
    if left < _LEAST_TEXT_LENGTH:
        return shortened(text, most)
    return f"{shortened(text, left)}{lasting}{advice}"


def _kind_of(message: Message) -> str:
    return "success" if message.pending == "cleared" else message.severity
