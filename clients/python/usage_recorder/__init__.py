"""The recorder, which API servers call in their requests (contracts §1.6): one round trip a record, and it never raises.

Its classes are imported when they are first used: who needs only names of keys does not wait for redis-py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usage_recorder.async_recorder import AsyncRecorder
    from usage_recorder.budget import BudgetAnswer
    from usage_recorder.quota import QuotaDecision
    from usage_recorder.recorder import Recorder

__all__ = ["AsyncRecorder", "BudgetAnswer", "QuotaDecision", "Recorder"]

_HOMES = {
    "AsyncRecorder": "async_recorder",
    "BudgetAnswer": "budget",
    "QuotaDecision": "quota",
    "Recorder": "recorder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
