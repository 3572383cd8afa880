"""Headers that every answer of the service has: what a browser may do with it, and that nobody keeps numbers."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# An answer that says one of these itself keeps its own: pages may load and call something, and their files are kept.
DEFAULTS = (
    (b"cache-control", b"no-store"),
    # What is opened as a page although it is none loads nothing, runs nothing, and is in no frame.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class AnswerHeaders:
    """Adds the headers that an answer does not have. It belongs around everything else, failures included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _completed(message.get("headers", ()))}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def page_headers(*, images: str = "'self'") -> dict[str, str]:
    """Headers of a page that loads and calls this service only, and holds no script or style itself.

    `images` are sources of its images in the terms of a Content-Security-Policy.
    """
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Cross-Origin-Opener-Policy": "same-origin"}


def plain_page_headers() -> dict[str, str]:
    """Headers of a page without scripts, whose forms go to this service only."""
    policy = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    # With no referrer at all a browser says Origin: null, and its own form looks like one of elsewhere.
    return {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
    }


def _completed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    own = list(headers)
    said = {name.lower() for name, _ in own}
    return own + [(name, value) for name, value in DEFAULTS if name not in said]
