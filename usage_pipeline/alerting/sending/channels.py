"""One text on its way to one channel of ALERT_URLS, through Apprise. Nothing here retries or raises.

Addresses are secrets. So channels are named by their place and kind, and Apprise's own log is silenced.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import scrypt
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pydantic import SecretStr

from usage_pipeline.alerting.sending.webhooks import Webhook, is_plain

if TYPE_CHECKING:
    import apprise

# They write whole addresses, at some level.
_TALKATIVE = ("apprise", "urllib3")
_SALT = b"usage_pipeline: channels of alerts"
# As much as a person reads. Many services take less.
MOST_LENGTH = 3_000
_TITLE_LENGTH = 250
# What Apprise puts around a title within the body.
_TITLE_MARKS = 16
# By how much a character grows at most: Markdown puts a backslash before it, HTML an entity in its place.
_GROWTH = dict.fromkeys(r"\_*[]()~`#+-=|{}.!", 1) | {"&": 4, "<": 3, ">": 3}


@dataclass(frozen=True, slots=True)
class Text:
    """What is sent. `body` gives the text in at most so long (`length`); `kind` is one of Apprise's, `files` go with it."""

    title: str
    body: Callable[[int], str]
    kind: str
    files: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel: a key by which it is known wherever it stands, a name that tells no secret, such as `1 (slack)`, its address.

    Without an address it is the log.
    """

    key: str
    name: str
    url: SecretStr | None = field(default=None, repr=False)


def known(urls: Sequence[SecretStr]) -> list[Channel]:
    """The channels of ALERT_URLS, each address once."""
    found: dict[str, Channel] = {}
    for number, url in enumerate(urls, start=1):
        key = channel_key(url.get_secret_value())
        found.setdefault(key, Channel(key, f"{number} ({_kind_of(url)})", url))
    return [*found.values()]


def named(urls: Sequence[SecretStr]) -> list[tuple[str, SecretStr]]:
    """Each channel with a name that tells no secret, such as `1 (slack)`."""
    return [(f"{number} ({_kind_of(url)})", url) for number, url in enumerate(urls, start=1)]


@lru_cache(maxsize=256)
def channel_key(address: str) -> str:
    """The key of an address. It is stored, and an address may hold a password that could be guessed: so the hash is slow."""
    return scrypt(address.encode(errors="surrogatepass"), salt=_SALT, n=2**14, r=8, p=1, dklen=15).hex()


def _kind_of(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[0].lower()


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and a `…`, within a length (`length`)."""
    if length(text) <= most:
        return text
    # No character is shorter than one.
    lengths = accumulate(map(length, text[: max(0, most)]))
    return f"{text[: sum(one < most for one in lengths)]}…"


def length(text: str) -> int:
    """The length as services count it at worst: bytes of UTF-8, once it is escaped for Markdown or HTML."""
    return len(text.encode()) + sum(text.count(character) * more for character, more in _GROWTH.items())


class Sending:
    """One text on its way, in a thread: some services hold a connection open longer than any time-out."""

    def __init__(self, name: str, url: SecretStr, timeout_seconds: float) -> None:
        self.name = name
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._problem: str | None = f"no answer within {timeout_seconds:g} s"
        # A daemon: a thread that never ends must not keep the process from ending.
        self._thread: threading.Thread | None = None
        self._ends_at = 0.0

    def start(self, text: Text) -> None:
        """Begins to send it."""
        # Outside of the time: the first one loads Apprise, which takes seconds.
        try:
            channel = _channel(self._url.get_secret_value(), self._timeout_seconds)
            arguments = None if channel is None else (channel, _arguments(text, channel))
        except Exception as error:  # as below
            self._problem = f"{type(error).__name__} in Apprise"
            return
        if arguments is None:
            self._problem = "not an address that Apprise knows; see https://github.com/caronc/apprise/wiki"
            return
        self._thread = threading.Thread(target=self._send, args=arguments, daemon=True, name="alert")
        self._ends_at = time.monotonic() + self._timeout_seconds
        self._thread.start()

    def problem(self) -> str | None:
        """Waits for the end of sending. Returns what went wrong, without the address, or None."""
        if self._thread is not None:
            self._thread.join(max(0.0, self._ends_at - time.monotonic()))
        return self._problem

    def _send(self, channel: Any, arguments: dict[str, Any]) -> None:
        try:
            if channel.notify(**arguments):
                self._problem = None
            # Apprise has the same time-out and does not say when it was that; its begins later, so it ends later, too.
            elif time.monotonic() < self._ends_at:
                self._problem = "the message was not accepted, or there is no connection"
        except Exception as error:  # a plugin of Apprise may raise anything, with the address in it
            self._problem = f"{type(error).__name__} in Apprise"


def _arguments(text: Text, channel: Any) -> dict[str, Any]:
    """Title and body within what the service takes. For many services Apprise makes both one text, so both fit together."""
    most = min(MOST_LENGTH, channel.body_maxlen or MOST_LENGTH)
    title = shortened(text.title, min(channel.title_maxlen or _TITLE_LENGTH, most // 2))
    arguments = {
        "body": text.body(most - length(title) - _TITLE_MARKS),
        "title": title,
        "notify_type": _notify_type(text.kind),
        # That it is text, so that each plugin escapes it as its service needs: for HTML, for Markdown, or not at all.
        "body_format": "text",
    }
    # A service that takes no files gets the text alone.
    return arguments | ({"attach": [str(path) for path in text.files]} if channel.attachment_support else {})


def _channel(url: str, timeout_seconds: float) -> Any:
    """Apprise's object for an address, None when it knows none. A plain http(s):// address takes JSON."""
    import apprise

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    limits = {"cto": f"{timeout_seconds:g}", "rto": f"{timeout_seconds:g}"}
    if is_plain(url):
        # Slack, Discord and others are known by the addresses that they hand out.
        return apprise.Apprise.instantiate(url) or Webhook(url, timeout_seconds)
    if "cto=" not in url:
        url += ("&" if "?" in url else "?") + urlencode(limits)
    return apprise.Apprise.instantiate(url)


def _notify_type(kind: str) -> "apprise.NotifyType":
    import apprise

    return apprise.NotifyType(kind)
