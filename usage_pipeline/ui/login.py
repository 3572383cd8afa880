"""Who may look at Dagster's web page: whoever knows the password, or whom a trusted proxy names."""

import asyncio
import hmac
import os
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from usage_pipeline.access.proxies import TrustedProxies
from usage_pipeline.api.connections.counting import counted_as
from usage_pipeline.ui.origin import Refusal
from usage_pipeline.ui.password import PasswordHash

# Wrong passwords within a minute. Beyond, those of an address are not looked at, and of all others one in two seconds, so that
# strangers keep nobody out who knows it. Who is signed in stays.
MOST_WRONG_OF_ADDRESS, MOST_WRONG = 5, 30
_WINDOW_SECONDS = 60.0
_PAUSE_SECONDS = 2.0
_MOST_HEADER_CHARACTERS = 2_000
_ASK = ("WWW-Authenticate", 'Basic realm="Dagster", charset="UTF-8"')


@dataclass(slots=True)
class Login:
    """Without a hash and without a header nobody is asked. With both, either is enough.

    A header counts only from one of the `proxies`. `clock` gives seconds.
    """

    password: PasswordHash | None = None
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    clock: Callable[[], float] = time.monotonic
    # Checking a password takes a quarter of a second; what was right once is known by a keyed hash of this process.
    _key: bytes = field(default_factory=lambda: os.urandom(32))
    _right: bytes = b""
    _wrong: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MOST_WRONG))
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    # What waits for its turn: one password of an address.
    _waiting: dict[str, bytes] = field(default_factory=dict)

    async def refusal(self, headers: Headers, address: str) -> Refusal | None:
        """Why the request is refused, or None. `address` is that of the connection, as text."""
        if self.password is None and self.proxies.user_header is None:
            return None
        if self.proxies.user_of(headers, address) is not None:
            return None
        if self.password is None:
            return Refusal(403, f"expected a request by a proxy of TRUSTED_PROXIES with one {self.proxies.user_header}")
        given = _password_of(headers)
        if given is None:
            return Refusal(401, "expected the password", (_ASK,))
        return await self._checked(self.password, given, address)

    async def _checked(self, password: PasswordHash, given: bytes, address: str) -> Refusal | None:
        mark = hmac.digest(self._key, given, "sha256")
        if hmac.compare_digest(mark, self._right):
            return None
        who = counted_as(address)
        # The page sends several requests at once, with the same password.
        if self._waiting.get(who, mark) != mark:
            return _later(_PAUSE_SECONDS)
        self._waiting[who] = mark
        try:
            # One at a time: each takes memory, and strangers may send many at once.
            async with self._one_at_a_time:
                return await self._looked_at(password, given, mark, who)
        finally:
            self._waiting.pop(who, None)

    async def _looked_at(self, password: PasswordHash, given: bytes, mark: bytes, who: str) -> Refusal | None:
        if hmac.compare_digest(mark, self._right):
            return None
        now = self.clock()
        recent = [(at, other) for at, other in self._wrong if at > now - _WINDOW_SECONDS]
        if sum(other == who for _, other in recent) >= MOST_WRONG_OF_ADDRESS:
            return _later(_WINDOW_SECONDS)
        if len(recent) >= MOST_WRONG and recent[-1][0] > now - _PAUSE_SECONDS:
            return _later(_PAUSE_SECONDS)
        if await asyncio.to_thread(password.is_of, given):
            self._right = mark
            return None
        self._wrong.append((self.clock(), who))
        return Refusal(401, "expected the password, came another", (_ASK,))


def _later(seconds: float) -> Refusal:
    return Refusal(429, f"too many wrong passwords: wait {seconds:.0f} seconds", (("Retry-After", f"{seconds:.0f}"),))


def _password_of(headers: Headers) -> bytes | None:
    """The password of HTTP Basic (RFC 7617) under any user name, as UTF-8; None when there is none."""
    values = headers.getlist("authorization")
    kind, _, encoded = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if kind.lower() != "basic" or len(encoded) > _MOST_HEADER_CHARACTERS:
        return None
    try:
        _, separator, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return password if separator else None
