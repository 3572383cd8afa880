"""What is read of a span, whichever way it was written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

# An attribute that is none of these is ODD: a list, a map, bytes. A prompt or an answer is its JSON instead.
Value = str | int | float | bool | None
Attributes = Mapping[str, Value]
ODD = "neither a text nor a number"
# Whether an attribute of this name is read.
Wanted = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Reading:
    """The attributes that are read; those of them that may be long."""

    is_wanted: Wanted
    is_long: Wanted


class Span(msgspec.Struct, frozen=True, gc=False):
    """Ids in hexadecimal digits, times in nanoseconds since 1970 (0: none), and the wanted attributes."""

    trace_id: str
    span_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    exception_type: str | None
    attributes: Attributes

    @property
    def name(self) -> str:
        """`trace id/span id`."""
        return f"{self.trace_id}/{self.span_id}"
