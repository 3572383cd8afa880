"""HEAD (RFC 9110 §9.3.2): what GET would answer, without its body. Health checks and checkers of links ask so."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What the router writes into the scope, and others read after the answer.
_ROUTED = ("route", "endpoint", "path_params")


class Heads:
    """Middleware: the app sees a GET, and `state.is_head`: what is streamed may end after its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["is_head"] = True
        # A copy: the server sends no body as long as its own says HEAD.
        asked = {**scope, "method": "GET"}

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        try:
            await self._app(asked, receive, without_body)
        finally:
            scope.update({name: asked[name] for name in _ROUTED if name in asked})
