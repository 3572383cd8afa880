"""Messages between Dagster and its Celery workers: JSON with a signature. Without the key nobody is obeyed.

The password of the broker alone is not enough then: to run something, to stop a worker, or to make up a result. What a message
says is signed here; the whole message, with its headers, is signed and looked at in `celery_transport.py`.
"""

import hmac
import os
from typing import Any

from kombu.exceptions import DecodeError
from kombu.serialization import register
from kombu.utils import json

_NAME = "signed"
_CONTENT_TYPE = "application/x-usage-pipeline-signed"
_SHORTEST_KEY = 32


def signed_messages() -> dict[str, Any]:
    """Settings of Celery, for both sides: everything is signed, and nothing else is accepted.

    The key is DAGSTER_CELERY_SIGNING_KEY. Raises KeyError without one, and ValueError for one that can be guessed.
    """
    key = signing_key()

    def write(value: object) -> str:
        text = json.dumps(value)
        return f"{signature(key, text)}{text}"

    def read(message: str | bytes) -> Any:
        text = message if isinstance(message, str) else bytes(message).decode()
        given, text = text[:64], text[64:]
        if not hmac.compare_digest(given.encode(), signature(key, text).encode()):
            raise DecodeError("expected a message that is signed with DAGSTER_CELERY_SIGNING_KEY")
        return json.loads(text)

    register(_NAME, write, read, content_type=_CONTENT_TYPE, content_encoding="utf-8")
    return {
        "broker_transport": "celery_transport:SignedTransport",
        "task_serializer": _NAME,
        "result_serializer": _NAME,
        "event_serializer": _NAME,
        "accept_content": [_NAME],
        "result_accept_content": [_NAME],
    }


def signing_key() -> bytes:
    """DAGSTER_CELERY_SIGNING_KEY. Raises KeyError without one, and ValueError for one that can be guessed."""
    key = os.environ["DAGSTER_CELERY_SIGNING_KEY"].encode()
    if len(key) < _SHORTEST_KEY:
        raise ValueError(
            f"DAGSTER_CELERY_SIGNING_KEY: expected at least {_SHORTEST_KEY} characters, such as of `openssl rand -hex 32`"
        )
    return key


def signature(key: bytes, text: str) -> str:
    """64 characters."""
    return hmac.digest(key, text.encode(), "sha256").hex()
