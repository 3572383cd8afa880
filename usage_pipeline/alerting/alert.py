"""An alert, as a value."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["warning", "failure"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One matter that a person must look at: what happened, with numbers, and what to do."""

    rule: str
    dedupe_key: str
    severity: Severity
    title: str
    text: str
    remedy: str
