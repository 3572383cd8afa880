"""Takes messages to channels, each channel on its own. Nothing here retries or raises: a later evaluation tries again."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from usage_pipeline.alerting.sending.channels import Channel, Sending, Text, known
from usage_pipeline.alerting.sending.messages import Message, titled, written
from usage_pipeline.settings import Settings

# The log takes part as a channel: it takes everything.
LOG = Channel("log", "log")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Courier:
    """The channels of ALERT_URLS, and the log."""

    urls: Sequence[SecretStr]
    timeout_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "Courier":
        return cls(settings.alert_channels, settings.alert_timeout_seconds)

    @property
    def channels(self) -> tuple[Channel, ...]:
        return (LOG, *known(self.urls))

    def send(self, messages: Mapping[str, Message]) -> dict[str, str | None]:
        """Sends a message to each of these channels at the same time. Returns what went wrong with each, None: it took it."""
        by_key = {channel.key: channel for channel in self.channels}
        found: dict[str, str | None] = {}
        sending = []
        for key, message in messages.items():
            channel = by_key[key]
            if channel.url is None:
                _write(message)
                found[key] = None
                continue
            one = Sending(channel.name, channel.url, self.timeout_seconds)
            one.start(_text(message))
            sending.append((key, one))
        for key, one in sending:
            found[key] = one.problem()
            if found[key]:
                alerts = ", ".join(map(str, messages[key].alert_ids[:3]))
                _log.warning("alert %s: %s: %s; it is tried again", alerts, one.name, found[key])
        return found


def _text(message: Message) -> Text:
    kind = "success" if message.kind == "cleared" else message.severity
    return Text(titled(message), lambda most: written(message, most), kind)


def _write(message: Message) -> None:
    level = logging.WARNING if message.kind == "raised" else logging.INFO
    numbers = ", ".join(map(str, message.alert_ids[:3])) + ("…" if len(message.alert_ids) > 3 else "")
    line = written(message).replace("\n", " ")
    _log.log(level, "alert %s (%s): %s: %s", numbers, message.rule, titled(message), line)
