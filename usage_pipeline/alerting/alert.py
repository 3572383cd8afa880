"""An alert, as a value."""

from dataclasses import dataclass
from typing import Literal

from usage_pipeline.texts import storable

Severity = Literal["warning", "failure"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One matter that a person must look at: what happened, with numbers, and what to do.

    With `is_told` false it is noted, but no message is sent: another alert says the same and more. `link`: where to look at it.
    `ending`: what is said when it is not found any more.
    `size`: how much of it there is; at twice of what was told it is told again.
    """

    rule: str
    dedupe_key: str
    severity: Severity
    title: str
    text: str
    remedy: str
    is_told: bool = True
    link: str | None = None
    ending: str = "This is over."
    size: int | None = None

    def __post_init__(self) -> None:
        # One error text with a NUL must not keep all alerts from being noted.
        for name in ("dedupe_key", "title", "text", "remedy", "link"):
            text = getattr(self, name)
            object.__setattr__(self, name, text if text is None else storable(text))
