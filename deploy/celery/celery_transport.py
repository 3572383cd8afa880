"""Redis as Celery's broker, where whole messages are signed: what they say, their headers, and the queue that they are for.

Celery itself acts on headers that nobody signed (time limits, expiry, names), and kombu ends the worker by what it cannot read.
Here what is not ours is dropped before either of them looks at it. Written for kombu 5.7.
"""

import hmac
import json
import time
from collections import deque
from typing import Any

from celery.utils.log import get_logger
from celery_messages import signature, signing_key
from kombu.transport import redis
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

_SIGNATURE, _SIGNED_AT = "usage_pipeline_signature", "usage_pipeline_signed_at"
# Celery marks what it puts back into a queue. Nothing of ours is decided by that.
_MARK = "redelivered"
# A run's is four kilobytes; that of what a worker does may be larger.
_MOST_BYTES = 2**20
# Commands are heard at once or never: an old one was kept by somebody, and said again. It leaves room for wrong clocks.
_COMMAND_SECONDS = 300.0
_LINES, _LINES_SECONDS = 20, 60.0
_log = get_logger(__name__)
_told: deque[float] = deque(maxlen=_LINES)


class _Unacknowledged(redis.QoS):  # type: ignore[misc]  # kombu has no annotations
    """Messages that workers have in hand, as the broker remembers them: what it remembers wrongly is thrown away."""

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        try:
            super().restore_visible(*arguments, **options)
        except ResponseError as problem:
            _refuse(self.unacked_index_key, str(problem))

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except self.channel.connection_errors:
            raise
        except Exception as problem:
            # Whatever kombu makes of it: the next tags must have their turn.
            _refuse(self.unacked_key, f"what is no message ({type(problem).__name__})")
            self._remove_from_indices(tag).execute()


class SignedChannel(redis.Channel):  # type: ignore[misc]
    """Signs what it puts into the broker, and takes only what is signed out of it."""

    QoS = _Unacknowledged

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        super()._put(queue, self._signed(message, queue), **options)

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **options: Any) -> None:
        super()._put_fanout(exchange, self._signed(message, exchange), routing_key, **options)

    def _do_restore_message(self, payload: Any, *arguments: Any, **options: Any) -> None:
        # Whether it is signed is seen when it is taken again.
        if not isinstance(payload, dict) or not isinstance(payload.get("headers"), dict):
            _refuse(self.unacked_key, "what is no message")
            return
        super()._do_restore_message(payload, *arguments, **options)

    def _get(self, queue: str) -> None:
        raise NotImplementedError("expected a consumer; one message at a time is not looked at by anybody")

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous=asynchronous)
        client.set_response_callback("BRPOP", self._taken)
        return client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError as problem:
            # The queue is no list. Celery would end; so it connects anew, later and later.
            _refuse("the broker", str(problem))
            raise redis.InconsistencyError(str(problem)) from problem

    def _taken(self, response: Any, **_: Any) -> tuple[bytes, str] | None:
        """The answer of BRPOP; None, as if nothing had come, for what is not ours."""
        if not response:
            return None
        key, item = response
        queue = key.decode(errors="replace").rsplit(self.sep, 1)[0]
        message = self._read(item, queue)
        return None if message is None else (key, json.dumps(message))

    def _handle_message(self, client: Any, response: Any) -> dict[str, Any]:
        heard: dict[str, Any] = super()._handle_message(client, response)
        kind = heard["type"]
        if (kind.decode() if isinstance(kind, bytes) else kind).endswith("message"):
            channel = heard["channel"].decode(errors="replace")
            exchange = channel.partition(".")[2] if channel.startswith("/") else channel
            message = self._read(heard["data"], exchange.split("/", 1)[0], _COMMAND_SECONDS)
            # kombu passes over an empty one.
            heard |= {"channel": channel, "data": json.dumps(message) if message is not None else ""}
        return heard

    def _signed(self, message: dict[str, Any], place: str) -> dict[str, Any]:
        headers = {**(message.get("headers") or {}), _SIGNED_AT: time.time()}
        # As it will be read: tuples, times and the like have become JSON.
        whole: dict[str, Any] = json.loads(dumps({**message, "headers": headers}))
        whole["headers"][_SIGNATURE] = signature(signing_key(), _canonical(whole, place))
        return whole

    def _read(self, item: Any, place: str, most_seconds: float | None = None) -> dict[str, Any] | None:
        """The message, if it was signed for this place with our key, and not longer ago; else None, and a line in the log."""
        if not isinstance(item, bytes) or len(item) > _MOST_BYTES:
            return _refuse(place, f"more than {_MOST_BYTES} bytes")
        try:
            message = json.loads(item)
            headers = message["headers"]
            given, signed_at = str(headers[_SIGNATURE]), headers[_SIGNED_AT]
            expected = signature(signing_key(), _canonical(message, place))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            # Whatever it is: everything that we send has these.
            return _refuse(place, "one without a signature")
        # JSON may have lone surrogates, which are no text.
        if not hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode()):
            return _refuse(place, "one with another signature")
        if most_seconds is not None and abs(time.time() - signed_at) > most_seconds:
            return _refuse(place, f"one that was signed more than {most_seconds:.0f} s ago, by this machine's clock")
        whole: dict[str, Any] = message
        return whole


class SignedTransport(redis.Transport):  # type: ignore[misc]
    """For `broker_transport`, with a URL of Redis."""

    Channel = SignedChannel


def _canonical(message: dict[str, Any], place: str) -> str:
    """All of a message but the signature itself and the mark of what was put back, and where it is for."""
    headers = {name: value for name, value in message["headers"].items() if name not in (_SIGNATURE, _MARK)}
    properties = dict(message["properties"])
    if isinstance(properties.get("delivery_info"), dict):
        properties["delivery_info"] = {**properties["delivery_info"], _MARK: False}
    return json.dumps([place, {**message, "headers": headers, "properties": properties}], sort_keys=True)


def _refuse(place: str, what: str) -> None:
    """A line in the log, of which there are twenty a minute at most: whoever reaches the broker could fill it."""
    now = time.monotonic()
    if len(_told) == _LINES and now - _told[0] < _LINES_SECONDS:
        return
    _told.append(now)
    _log.error(
        "Refused a message for %.100r: expected one that is signed with DAGSTER_CELERY_SIGNING_KEY, came %.300s%s",
        place,
        what,
        "; more of them are not told for a while" if len(_told) == _LINES and now - _told[0] < _LINES_SECONDS else "",
    )
