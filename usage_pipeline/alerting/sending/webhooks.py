"""A POST of JSON to a plain http(s):// address, exactly as it was given.

Apprise's own `json://` reads the query string as options of its own, and calls the address without it.
"""

import base64
import json
import mimetypes
import string
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_TEXT = string.ascii_letters + string.digits + string.punctuation


def is_plain(address: str) -> bool:
    return address.partition("://")[0].lower() in ("http", "https")


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would make a GET without the message of it."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class Webhook:
    """Has what `channels.Sending` uses of a plugin of Apprise. Proxies are those of the environment."""

    body_maxlen = title_maxlen = 0
    attachment_support = True

    def __init__(self, address: str, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        parts = urlsplit(address)
        credentials, _, host = parts.netloc.rpartition("@")
        # What is no ASCII cannot be sent as it is.
        rest = quote(address.partition("://")[2].partition("#")[0], safe=_TEXT)[len(quote(parts.netloc, safe=_TEXT)) :]
        self._address = f"{parts.scheme.lower()}://{host}{rest or '/'}"
        self._headers = {"Content-Type": "application/json", "User-Agent": "usage_pipeline"}
        if credentials:
            name, _, password = credentials.partition(":")
            pair = f"{unquote(name)}:{unquote(password)}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"

    def notify(self, *, title: str, body: str, notify_type: Any, attach: list[str] = [], **_: object) -> bool:  # noqa: B006
        """Whether the host accepted it."""
        document = {
            "version": "1.0",
            "title": title,
            "message": body,
            "attachments": [_attached(Path(path)) for path in attach],
            "type": str(notify_type.value),
        }
        request = Request(self._address, json.dumps(document).encode(), self._headers, method="POST")  # noqa: S310
        try:
            with build_opener(_NoRedirect).open(request, timeout=self._timeout_seconds) as answer:
                return 200 <= int(answer.status) < 300
        except HTTPError as refusal:
            refusal.close()
            return False
        except (OSError, HTTPException):
            return False


def _attached(path: Path) -> dict[str, str]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return {"filename": path.name, "base64": base64.b64encode(path.read_bytes()).decode(), "mimetype": kind}
