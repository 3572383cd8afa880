"""Sends messages through Apprise, each channel on its own. Nothing here retries or raises: a later evaluation tries again.

Addresses are secrets. So messages name a channel by its place and kind, and Apprise's own log is silenced.
"""

import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from usage_pipeline.alerting.record import Message
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted, without_mentions

if TYPE_CHECKING:
    import apprise

LOG_ONLY = "log"
_log = logging.getLogger(__name__)
# They write whole addresses, at some level.
_TALKATIVE = ("apprise", "urllib3")
# As much as a person reads. Many services take less.
_TEXT_LENGTH = 3_000
_TITLE_LENGTH = 250
_LEAST_TEXT_LENGTH = 80
# What Apprise puts around a title within the body.
_TITLE_MARKS = 16
# By how much a character grows at most: Markdown puts a backslash before it, HTML an entity in its place.
_GROWTH = dict.fromkeys(r"\_*[]()~`#+-=|{}.!", 1) | {"&": 4, "<": 3, ">": 3}


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
        """Logs the message, and sends it at the same time to all channels that do not have it yet."""
        if not message.delivered_to:
            level = logging.WARNING if message.pending == "raised" else logging.INFO
            line = written(message).replace("\n", " ")
            _log.log(level, "alert %d (%s): %s: %s", message.alert_id, message.rule, titled(message), line)
        if not self.channels:
            return Outcome((LOG_ONLY,), None)
        sending = [
            _Sending(name, url, self.timeout_seconds)
            for name, url in named(self.channels)
            if name not in message.delivered_to and name not in self._down
        ]
        for one in sending:
            one.start(message)
        for one in sending:
            if problem := one.problem():
                self._down[one.name] = problem
                _log.warning("alert %d: %s: %s; it is tried again", message.alert_id, one.name, problem)
        accepted = tuple(one.name for one in sending if one.name not in self._down)
        return Outcome(accepted, self._error(accepted, message.delivered_to))

    def _error(self, accepted: Collection[str], before: Collection[str]) -> str | None:
        missing = [name for name, _ in named(self.channels) if name not in accepted and name not in before]
        return "; ".join(f"{name}: {self._down.get(name, 'not sent')}" for name in missing) or None


def named(channels: Sequence[SecretStr]) -> list[tuple[str, SecretStr]]:
    """Each channel with a name that tells no secret, such as `1 (slack)`."""
    return [
        (f"{number} ({url.get_secret_value().partition('://')[0].lower()})", url)
        for number, url in enumerate(channels, start=1)
    ]


def titled(message: Message) -> str:
    """The title as it is sent: one line that calls nobody."""
    return without_mentions(f"[usage_pipeline] {'Cleared: ' if message.pending == 'cleared' else ''}{message.title}")


def written(message: Message, most: int = _TEXT_LENGTH) -> str:
    """The body as it is sent, at most so long (`_length`). Where it is too long, what happened is cut before what to do."""
    minutes = (message.last_at - message.first_at).total_seconds() / 60
    text = without_mentions(message.text)
    if message.pending == "cleared":
        times = f"{counted(message.count, 'time')} in {counted(round(minutes), 'minute')}"
        before = f"This is over. It was found {times}. The alert was: "
        return shortened(before + text, most)
    lasting = f" (for {counted(round(minutes), 'minute')} now)" if minutes >= 1 else ""
    advice = f"\nWhat to do: {without_mentions(message.remedy)}\nSee docs/alerts.md#{message.rule}"
    left = most - _length(lasting + advice)
    if left < _LEAST_TEXT_LENGTH:
        return shortened(text, most)
    return f"{shortened(text, left)}{lasting}{advice}"


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and a `…`, within a length (`_length`)."""
    if _length(text) <= most:
        return text
    # No character is shorter than one.
    lengths = accumulate(map(_length, text[: max(0, most)]))
    return f"{text[: sum(length < most for length in lengths)]}…"


def _length(text: str) -> int:
    """The length as services count it at worst: bytes of UTF-8, once it is escaped for Markdown or HTML."""
    return len(text.encode()) + sum(text.count(character) * more for character, more in _GROWTH.items())


def _kind_of(message: Message) -> str:
    return "success" if message.pending == "cleared" else message.severity


class _Sending:
    """One message on its way to one channel, in a thread: some services hold a connection open longer than any time-out."""

    def __init__(self, name: str, url: SecretStr, timeout_seconds: float) -> None:
        self.name = name
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._problem: str | None = f"no answer within {timeout_seconds:g} s"
        # A daemon: a thread that never ends must not keep the process from ending.
        self._thread: threading.Thread | None = None
        self._ends_at = 0.0

    def start(self, message: Message) -> None:
        # Outside of the time: the first one loads Apprise, which takes seconds.
        try:
            channel = _channel(self._url.get_secret_value(), self._timeout_seconds)
            title, body = _fitted(message, channel) if channel is not None else ("", "")
        except Exception as error:  # as below
            self._problem = f"{type(error).__name__} in Apprise"
            return
        if channel is None:
            self._problem = "not an address that Apprise knows; see https://github.com/caronc/apprise/wiki"
            return
        arguments = (channel, title, body, _kind_of(message))
        self._thread = threading.Thread(target=self._send, args=arguments, daemon=True, name="alert")
        self._ends_at = time.monotonic() + self._timeout_seconds
        self._thread.start()

    def problem(self) -> str | None:
        """Waits for the end of sending. Returns what went wrong, without the address, or None."""
        if self._thread is not None:
            self._thread.join(max(0.0, self._ends_at - time.monotonic()))
        return self._problem

    def _send(self, channel: Any, title: str, body: str, kind: str) -> None:
        try:
            # That it is text, so that each plugin escapes it as its service needs: for HTML, for Markdown, or not at all.
            if channel.notify(body=body, title=title, notify_type=_notify_type(kind), body_format="text"):
                self._problem = None
            # Apprise has the same time-out and does not say when it was that; its begins later, so it ends later, too.
            elif time.monotonic() < self._ends_at:
                self._problem = "the message was not accepted, or there is no connection"
        except Exception as error:  # a plugin of Apprise may raise anything, with the address in it
            self._problem = f"{type(error).__name__} in Apprise"


def _fitted(message: Message, channel: Any) -> tuple[str, str]:
    """Title and body within what the service takes. For many services Apprise makes both one text, so both fit together."""
    most = min(_TEXT_LENGTH, channel.body_maxlen or _TEXT_LENGTH)
    title = shortened(titled(message), min(channel.title_maxlen or _TITLE_LENGTH, most // 2))
    return title, written(message, most - _length(title) - _TITLE_MARKS)


def _channel(url: str, timeout_seconds: float) -> Any:
    """Apprise's object for an address, None when it knows none. A plain http(s):// address takes JSON."""
    import apprise

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    limits = {"cto": f"{timeout_seconds:g}", "rto": f"{timeout_seconds:g}"}
    parts = urlsplit(url)
    if parts.scheme.lower() in ("http", "https"):
        # Slack, Discord and others are known by the addresses that they hand out.
        if (native := apprise.Apprise.instantiate(url)) is not None:
            return native
        url = f"{'jsons' if parts.scheme.lower() == 'https' else 'json'}://{url.partition('://')[2]}"
    if "cto=" not in parts.query:
        url += ("&" if parts.query else "?") + urlencode(limits)
    return apprise.Apprise.instantiate(url)


def _notify_type(kind: str) -> "apprise.NotifyType":
    import apprise

    return apprise.NotifyType(kind)
