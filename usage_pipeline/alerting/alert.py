"""An alert, as a value."""

from dataclasses import dataclass
from typing import Literal

from usage_pipeline.texts import storable

Severity = Literal["warning", "failure"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One matter that a person must look at: what happened, with numbers, and what to do.

    With `is_told` false it is noted, but no message is sent: another alert says the same and more.
    """

    rule: str
    dedupe_key: str
    severity: Severity
    title: str
    text: str
    remedy: str
    is_told: bool = True

    def __post_init__(self) -> None:
        # One error text with a NUL must not keep all alerts from being noted.
        for name in ("dedupe_key", "title", "text", "remedy"):
            object.__setattr__(self, name, storable(getattr(self, name)))
