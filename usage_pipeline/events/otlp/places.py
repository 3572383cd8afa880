"""Where the spans of a document are, and where the resource of each is: two numbers each, however large they are."""

from array import array
from dataclasses import dataclass, field

from usage_pipeline.events.otlp.parts import MOST_SPANS, TooManyParts

Place = tuple[int, int]
NOWHERE: Place = (0, 0)


def _numbers() -> "array[int]":
    return array("Q")


@dataclass(slots=True)
class SpanPlaces:
    """Spans in the order of the document. Those of one resource follow each other."""

    _spans: "array[int]" = field(default_factory=_numbers)
    # Where the resource is, and the number of the first span after those of it.
    _resources: "array[int]" = field(default_factory=_numbers)

    def __len__(self) -> int:
        return len(self._spans) // 2

    def add(self, begin: int, end: int) -> None:
        """Raises TooManyParts."""
        if len(self) >= MOST_SPANS:
            raise TooManyParts(f"body: expected at most {MOST_SPANS} spans, came more")
        self._spans.extend((begin, end))

    def close_resource(self, place: Place) -> None:
        """All spans since the one before are of this resource. One without spans is not kept."""
        if len(self) > (self._resources[-1] if self._resources else 0):
            self._resources.extend((*place, len(self)))

    def span(self, number: int) -> Place:
        return self._spans[2 * number], self._spans[2 * number + 1]

    def resources(self) -> tuple[list[Place], list[int]]:
        """Where each resource is, and the number of the first span after its own."""
        every = self._resources
        places = [(every[at], every[at + 1]) for at in range(0, len(every), 3)]
        return places, [every[at + 2] for at in range(0, len(every), 3)]
