"""A request of OTLP: its calls of models as the items of a batch, made one by one when they are asked for."""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from types import ModuleType

from usage_pipeline.events.formats.mapped import Mapped
from usage_pipeline.events.otlp import json_text, protobuf
from usage_pipeline.events.otlp.mapping import Rules, archive_of, event_of, has_unknown_tokens, is_model_call
from usage_pipeline.events.otlp.parts import Parts
from usage_pipeline.events.otlp.places import SpanPlaces
from usage_pipeline.events.otlp.span import Attributes, Reading, Span
from usage_pipeline.values import Malformed

# Events that are kept from the first look until they are stored; others are made a second time.
KEPT_BYTES = 4 * 2**20
_KEPT_REASONS = 5


@dataclass(slots=True)
class Refusals:
    """Spans that are refused: how many, and the first of each of the first reasons."""

    number: int = 0
    _first: dict[str, str] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)

    def is_new(self, reason: str) -> bool:
        """Whether it is kept of which span this reason is."""
        return reason not in self._first and len(self._first) < _KEPT_REASONS

    def add(self, reason: str, span: str = "") -> None:
        """Without a span where nobody knows which one it is."""
        self.number += 1
        if self.is_new(reason):
            self._first[reason] = f"span {span}" if span else ""
        if reason in self._first:
            self._numbers[reason] += 1

    @property
    def reasons(self) -> list[str]:
        """With the span, and of how many others they are the reason."""
        found = []
        for reason, span in self._first.items():
            others = self._numbers[reason] - 1
            where = f"{span}{f' and {others:,} more' if others else ''}: " if span else ""
            found.append(f"{where}{reason}")
        return found


class TraceRequest:
    """The spans of a document.

    `refusals`: calls that cannot be events; `unknown`: how many others have tokens; `unkept`: archives that cannot be made.
    """

    def __init__(self, document: bytes | bytearray, *, is_json: bool, rules: Rules, deadline: float) -> None:
        """Looks through the document. `deadline` is a time of `time.monotonic`.

        Raises UnreadableDocument, TooManyParts, and TimeoutError after the deadline, also when something is asked for later.
        """
        self._document = document
        self._format: ModuleType = json_text if is_json else protobuf
        self._rules = rules
        self._deadline = deadline
        self._parts = Parts(deadline)
        self.refusals = Refusals()
        self.unknown = 0
        self.unkept = Refusals()
        self._places: SpanPlaces = self._format.spans_in(document, self._parts)
        self._resources, self._ends = self._places.resources()
        self._kept: dict[int, bytes] = {}
        self._resource: tuple[int, Attributes] = (-1, {})
        self._calls = array("Q", self._look())

    def __len__(self) -> int:
        """All spans, whatever they are."""
        return len(self._places)

    @property
    def calls(self) -> int:
        """How many of them are calls of a model that can be events."""
        return len(self._calls)

    def batches(self, most: int) -> "Iterator[Batch]":
        """The calls of models, so many at a time."""
        for first in range(0, len(self._calls), most):
            self._parts = Parts(self._deadline)
            yield Batch(self, self._calls[first : first + most])

    def event(self, number: int) -> bytes:
        """The usage event of a call, as JSON."""
        kept = self._kept.get(number)
        if kept is not None:
            self._parts.look()
            return kept
        span = self._span(number)
        return event_of(span, self._resource_of(number), self._rules)

    def archive(self, number: int) -> bytes | None:
        """The message archive of a call, as JSON, if it has one."""
        span = self._span(number)
        try:
            content = self._span(number, self._rules.of_content).attributes
        except Malformed as malformed:
            self.unkept.add(str(malformed), span.name)
            return None
        return archive_of(span, self._resource_of(number), self._rules, content)

    def name(self, number: int) -> str:
        """`trace id/span id`."""
        return self._span(number).name

    def _look(self) -> Iterator[int]:
        """The numbers of the spans that are calls of models, and can be events."""
        left = KEPT_BYTES
        for number in range(len(self._places)):
            try:
                span = self._span(number)
                if not is_model_call(span):
                    self.unknown += has_unknown_tokens(span)
                    continue
                event = event_of(span, self._resource_of(number), self._rules)
            except Malformed as malformed:
                self.refusals.add(str(malformed), f"{number} of the request")
                continue
            left -= len(event)
            if left >= 0:
                self._kept[number] = event
            yield number

    def _span(self, number: int, reading: Reading | None = None) -> Span:
        reading = reading or self._rules.of_spans
        span: Span = self._format.span(self._document, self._places.span(number), reading, self._parts)
        return span

    def _resource_of(self, number: int) -> Attributes:
        at = bisect_right(self._ends, number)
        if self._resource[0] != at:
            place = self._resources[at]
            attributes = self._format.resource_attributes(self._document, place, self._rules.of_resources, self._parts)
            self._resource = (at, attributes)
        return self._resource[1]


class Batch(Mapped[int]):
    """The events of some calls, in their order."""

    def __init__(self, request: TraceRequest, numbers: "array[int]") -> None:
        super().__init__(numbers, request.event)
        self._request = request
        self._numbers = numbers

    def name(self, index: int) -> str:
        """`trace id/span id`."""
        return self._request.name(self._numbers[index])

    def archives(self, most_bytes: int, without: Set[int]) -> Iterator[list[bytes]]:
        """The message archives of those that have one: at least one, and as many as have so many bytes, at a time.

        `without`: indexes of events that are not stored.
        """
        some: list[bytes] = []
        size = 0
        for index, number in enumerate(self._numbers):
            archive = None if index in without else self._request.archive(number)
            if archive is None:
                continue
            if some and size + len(archive) > most_bytes:
                yield some
                some, size = [], 0
            some.append(archive)
            size += len(archive)
        if some:
            yield some
