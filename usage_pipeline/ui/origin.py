"""Which requests a browser may send for whom. Dagster's own application obeys every page that its user visits.

A foreign page can send a GET and a form with its user's rights, but no JSON; and it cannot hide where it comes from
(https://fetch.spec.whatwg.org: `Origin`, `Sec-Fetch-Site`). A name that leads to this machine is no proof: DNS is the page's.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_AUTHORITY = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_OWN_SITES = (None, "same-origin", "none")
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that does not reach Dagster. `reason` says what was expected, and what came."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


def refusal(
    method: str, path: str, headers: Headers, *, allowed_hosts: Collection[str], is_websocket: bool = False
) -> Refusal | None:
    """Why a request is refused, or None. `allowed_hosts` are names in lower case, without ports; IPv6 in brackets."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or host_name(hosts[0]) not in allowed_hosts:
        return Refusal(
            421, f"expected a Host that this server has (DAGSTER_UI_ALLOWED_HOSTS), came {_shown(', '.join(hosts))}"
        )
    if foreign := _foreign_origin(headers, hosts[0]):
        return foreign
    site = headers.get("sec-fetch-site")
    if is_websocket:
        return None if site in _OWN_SITES else _from_elsewhere(site)
    if method in ("GET", "HEAD"):
        # Dagster executes the query of a GET, unless the browser asks for a page. A picture is no page.
        if path.rstrip("/").endswith("/graphql") and "text/html" not in headers.get("accept", ""):
            return Refusal(405, "expected a query as JSON by POST, came a GET", (("Allow", "POST"),))
        # A link to a page may be anywhere.
        is_visit = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return None if site in _OWN_SITES or is_visit else _from_elsewhere(site)
    if method != "POST":
        return Refusal(405, f"expected GET or POST, came {_shown(method)}", (("Allow", "GET, HEAD, POST"),))
    if site not in _OWN_SITES:
        return _from_elsewhere(site)
    # The essence alone: a form may send `text/plain; application/json`, which Dagster takes for JSON.
    kinds = headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, f"expected Content-Type application/json, came {_shown(', '.join(kinds))}")
    return None


def host_name(host: str) -> str | None:
    """The name of a Host header in lower case, without its port; None if it is malformed."""
    match = _AUTHORITY.fullmatch(host.lower())
    return match[1] if match else None


def _foreign_origin(headers: Headers, host: str) -> Refusal | None:
    for origin in headers.getlist("origin"):
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            # Such as `http://[`: no browser sends it.
            parts = urlsplit("")
        default = f":{_DEFAULT_PORTS.get(parts.scheme, '')}"
        is_own = parts.scheme in _DEFAULT_PORTS and (
            parts.netloc.removesuffix(default) == host.lower().removesuffix(default)
        )
        if not is_own:
            return Refusal(
                403,
                f"expected a page of this server, {_shown(host)}, came one of {_shown(origin)}. "
                "A proxy must leave the Host as the browser sent it, with its port",
            )
    return None


def _from_elsewhere(site: str | None) -> Refusal:
    return Refusal(403, f"expected a page of this server, came another (Sec-Fetch-Site {_shown(site or '')})")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]!r}…"
