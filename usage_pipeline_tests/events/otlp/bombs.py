"""Requests of OTLP that are small as gzip and have millions of parts, as parts of bytes, of about so many bytes each."""

from collections.abc import Callable, Iterable, Mapping

_MEGABYTE = 2**20


def field(number: int, content: bytes) -> bytes:
    """A field of a message of protobuf."""
    size, written = len(content), bytearray([number << 3 | 2])
    while size >= 0x80:
        size, rest = size >> 7, size & 0x7F
        written.append(rest | 0x80)
    return bytes(written) + bytes([size]) + content


def _in_a_span(content: bytes) -> list[bytes]:
    return [field(1, field(2, field(2, content)))]


def _deep_value(depth: int) -> bytes:
    """An attribute whose value is a list in a list in a list …"""
    content = b""
    for _ in range(depth):
        content = field(5, field(1, content))
    return field(9, field(1, b"gen_ai.operation.name") + field(2, content))


def _texts(size: int) -> list[bytes]:
    return _in_a_span(
        b"".join(field(9, field(1, b"gen_ai.prompt") + field(2, field(1, b"a" * (size // 3)))) for _ in range(3))
    )


def _repeated(before: bytes, piece: bytes, size: int, after: bytes) -> Iterable[bytes]:
    """Nearly all of it is this piece."""
    pieces = piece * max(1, min(size, _MEGABYTE) // len(piece))
    yield before
    for _ in range(max(1, size // len(pieces))):
        yield pieces
    yield after


PROTOBUF_BOMBS: Mapping[str, Callable[[int], Iterable[bytes]]] = {
    "resources": lambda size: [field(1, b"") * (size // 2)],
    "spans": lambda size: [field(1, field(2, field(2, b"") * (size // 2)))],
    "attributes": lambda size: _in_a_span(field(9, b"") * (size // 2)),
    "attributes of many spans": lambda size: [field(1, field(2, field(2, field(9, b"") * 8_000) * (size // 16_000)))],
    "events": lambda size: _in_a_span(field(11, b"") * (size // 2)),
    "texts": _texts,
    "a deep value": lambda size: _in_a_span(_deep_value(2_000)),
    "zeroes": lambda size: [bytes(size)],
}
_SPAN = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{'
_END = b"]}]}]}"
JSON_BOMBS: Mapping[str, Callable[[int], Iterable[bytes]]] = {
    "resources": lambda size: _repeated(b'{"resourceSpans":[', b"{},", size, b"{}]}"),
    "numbers": lambda size: _repeated(b'{"resourceSpans":[', b"1,", size, b"1]}"),
    "spans": lambda size: _repeated(_SPAN, b"},{", size, b"}" + _END),
    "attributes": lambda size: _repeated(_SPAN + b'"attributes":[', b"{},", size, b"{}]}" + _END),
    "events": lambda size: _repeated(_SPAN + b'"events":[', b"{},", size, b"{}]}" + _END),
    "lists": lambda size: _repeated(b'{"x":', b"[", size, b""),
    "a text": lambda size: _repeated(_SPAN + b'"name":"', b"a", size, b'"}' + _END),
    "a text without an end": lambda size: _repeated(b'{"x":"', rb"\\", size, b""),
    "spaces": lambda size: _repeated(b"", b" ", size, b"{}"),
}
