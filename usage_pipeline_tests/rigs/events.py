"""Usage events as clients send them, for the tests of events."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

NOW = datetime.now(UTC).replace(microsecond=0)


def event(**changes: Any) -> dict[str, Any]:
    """A valid event of an hour ago, with changes; a member that is changed to `...` is left out."""
    members = {
        "event_id": str(uuid.uuid4()),
        "event_time": (NOW - timedelta(hours=1)).isoformat(),
        "user_id": "user-1",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 100,
        "output_tokens": 20,
        "latency_ms": 350,
        "status_code": 200,
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def archive(event_id: str, **changes: Any) -> dict[str, Any]:
    """A valid archive of an event, with changes."""
    members = {
        "event_id": event_id,
        "user_id": "user-1",
        "service": "chat",
        "prompt_full": "What is a ledger?",
        "response_full": "A book of accounts.",
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def as_items(*members: dict[str, Any]) -> list[bytes]:
    """Each as the bytes of a JSON object."""
    return [json.dumps(item).encode() for item in members]
