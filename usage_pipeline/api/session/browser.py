"""What a browser and the proxy before it say of a session: the cookie, whether it came by https, and whom the proxy names."""

from datetime import UTC, datetime

from fastapi import Request

from usage_pipeline.access.proxies import TrustedProxies
from usage_pipeline.api.connections.protocol import PEER, Peer

_NAME = "usage_session"
# A browser takes it by https only, for the whole of this host, and from no other host of the same domain.
_SECURE_NAME = f"__Host-{_NAME}"


def peer_of(request: Request) -> Peer:
    """Who is at the other end of the connection. A server that does not say it leaves nobody who could be trusted."""
    found: Peer | None = request.scope.get("extensions", {}).get(PEER)
    return found or Peer(None, request.scope.get("scheme", "http"))


def is_https(request: Request) -> bool:
    """Whether the browser came by https: by itself, or as a trusted proxy says."""
    peer = peer_of(request)
    proxies: TrustedProxies = request.app.state.proxies
    return peer.scheme == "https" or proxies.says_https(request.headers, peer.address)


def user_of(request: Request) -> str | None:
    """Whom a trusted proxy names."""
    proxies: TrustedProxies = request.app.state.proxies
    return proxies.user_of(request.headers, peer_of(request).address)


def cookie_of(request: Request) -> str | None:
    """The cookie of a session, or None. Of two, one is what somebody else put there: an empty text, which opens nothing."""
    name = _name(is_https(request))
    parts = (part.strip() for header in request.headers.getlist("cookie") for part in header.split(";"))
    found = [value for each, separator, value in (part.partition("=") for part in parts) if separator and each == name]
    return found[0] if len(found) == 1 else "" if found else None


def set_cookie(request: Request, value: str, expires_at: datetime | None) -> str:
    """The header Set-Cookie that signs in until `expires_at`."""
    seconds = None if expires_at is None else max(0, int((expires_at - datetime.now(UTC)).total_seconds()))
    return _cookie(request, value, seconds)


def clear_cookie(request: Request) -> str:
    """The header Set-Cookie that takes it away."""
    return _cookie(request, "", 0)


def _cookie(request: Request, value: str, seconds: int | None) -> str:
    is_secure = is_https(request)
    # Strict: no link and no form of elsewhere brings it along. The page itself has no secret, and asks from its own origin.
    parts = [f"{_name(is_secure)}={value}", "Path=/", "HttpOnly", "SameSite=Strict"]
    parts += ["Secure"] if is_secure else []
    parts += [] if seconds is None else [f"Max-Age={seconds}"]
    return "; ".join(parts)


def _name(is_secure: bool) -> str:
    return _SECURE_NAME if is_secure else _NAME
