"""What the real LiteLLM handed to its callbacks, recorded by `litellm_calls.py`. Price entries and tracebacks are cut."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from usage_pipeline_tests.rigs.events import NOW

_FILE = Path(__file__).with_name("litellm.json")


@cache
def _recorded() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(_FILE.read_text())
    return found


def payloads() -> list[dict[str, Any]]:
    """All of them, as if they had been logged in the last hour."""
    return [payload(name, number) for name, group in _recorded().items() for number in range(len(group))]


def payload(name: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    """One of them by the name of its request, with changes; a member that is changed to `...` is left out."""
    first = min(one["startTime"] for group in _recorded().values() for one in group)
    found = copy.deepcopy(_recorded()[name][number])
    for member in ("startTime", "endTime", "completionStartTime"):
        found[member] += NOW.timestamp() - 3_000 - first
    return {member: value for member, value in {**found, **changes}.items() if value is not ...}
