"""How much of a document is looked at: a small request may hold millions of parts. What is beyond the limits is refused."""

import time

from usage_pipeline.values import Malformed

# Spans of a request, of any kind. The collector of OpenTelemetry sends 8,192 at once unless it is told otherwise.
MOST_SPANS = 100_000
# Everything that is looked at one by one: spans, their attributes, what holds them. Some microseconds each.
MOST_PARTS = 1_000_000
# As many attributes that protobuf or msgspec decoded take as much time.
_DECODED_PER_PART = 4
# Attributes of a span. The SDKs keep 128 unless they are told otherwise.
MOST_ATTRIBUTES = 10_000
# A span that is decoded as it is. Of a larger one all but what is read is left out before.
SMALL_BYTES = 16 * 1024
# An attribute that is read, unless it is a prompt or an answer. Anything longer is no id, no name and no count.
MOST_VALUE_BYTES = 4 * 1024
# The prompts and answers of a span, which are in memory in several copies while they are made an archive.
MOST_CONTENT_BYTES = 8 * 2**20
# A prompt or an answer that is no text but a structure: decoded it is many times as large.
MOST_STRUCTURED_BYTES = 128 * 1024
_PARTS_PER_LOOK = 1_000


def expect_few_bytes(content: int) -> None:
    """Raises Malformed for more prompts and answers than are kept of a span."""
    if content > MOST_CONTENT_BYTES:
        raise Malformed(f"prompts and answers: expected at most {MOST_CONTENT_BYTES} bytes of a span, came more")


class TooManyParts(Exception):
    """The document has more parts than are looked at."""


class Parts:
    """Counts the parts of one document. `deadline` is a time of `time.monotonic`; later, TimeoutError comes."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._left = MOST_PARTS
        self._until_look = 0

    def look_at_decoded(self, number: int) -> None:
        """The same for so many attributes that are decoded."""
        self.look(1 + number // _DECODED_PER_PART)

    def look(self, number: int = 1) -> None:
        """Raises TooManyParts, and TimeoutError."""
        self._left -= number
        self._until_look -= number
        if self._until_look < 0:
            self._until_look = _PARTS_PER_LOOK
            if self._left < 0:
                raise TooManyParts(f"body: expected at most {MOST_PARTS} parts (spans, attributes, …), came more")
            if time.monotonic() > self._deadline:
                raise TimeoutError
