"""Refusals of requests that nobody has read to their end."""

import json
from http import HTTPStatus

from usage_pipeline.api.answers.headers import DEFAULTS

# The first line and the fields of a request together; also the fields after a chunked body.
MAX_HEAD_BYTES = 64 * 1024
# A field costs more memory than its bytes. Browsers behind proxies send about forty.
MAX_FIELDS = 128
# What a path may have: decoded, each of its characters may take four bytes. No id of a route needs a third of it.
MAX_PATH_BYTES = 8 * 1024
# What follows it. Every route's parameters are parsed, before anything is asked of their sender: 30,000 of them take 0.1 s.
MAX_QUERY_BYTES = 8 * 1024
MAX_PARAMETERS = 128
# Requests that a client may send before the answer to its first one. Few clients send any.
MAX_PIPELINED = 8
_EXPECTED = {
    HTTPStatus.BAD_REQUEST: "expected a request of HTTP/1.1, came something else",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"expected a head of at most {MAX_HEAD_BYTES} bytes and {MAX_FIELDS} fields, came more"
    ),
    HTTPStatus.REQUEST_URI_TOO_LONG: (
        f"expected a head of at most {MAX_HEAD_BYTES} bytes, with {MAX_PATH_BYTES} of them in the path,"
        f" {MAX_QUERY_BYTES} in the query and {MAX_PARAMETERS} parameters, came a longer address"
    ),
    HTTPStatus.REQUEST_TIMEOUT: "expected the whole head within HEAD_TIMEOUT_SECONDS, came a part of it",
    HTTPStatus.TOO_MANY_REQUESTS: f"expected at most {MAX_PIPELINED} requests before the first answer, came more",
    HTTPStatus.SERVICE_UNAVAILABLE: "this server takes no more connections at once; try again",
}


def is_too_long(url: bytes) -> bool:
    """Whether an address is longer than this server reads."""
    path, _, query = url.partition(b"?")
    return len(path) > MAX_PATH_BYTES or len(query) > MAX_QUERY_BYTES or query.count(b"&") >= MAX_PARAMETERS


def refusal(status: HTTPStatus) -> bytes:
    """A problem document, like the errors of the app, but of a request that nobody has read to its end."""
    kind = status.phrase.lower().replace(" ", "-")
    document = {
        "type": f"urn:usage-pipeline:{kind}",
        "title": status.phrase.capitalize(),
        "status": status.value,
        "detail": _EXPECTED[status],
    }
    body = json.dumps(document).encode()
    retry = "Retry-After: 2\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n"
    )
    # The app's own answers get these on their way out.
    of_all = b"".join(b"%b: %b\r\n" % header for header in DEFAULTS)
    return head.encode() + of_all + b"\r\n" + body
