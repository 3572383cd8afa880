"""Large JSON as it is stored, made piece by piece. As a whole it would be a million objects, and all threads would wait."""

from collections.abc import Iterator

import msgspec

from usage_pipeline import values
from usage_pipeline.events.ingest.long_texts import texts_of

# What is decoded at a time: a millisecond, and few enough objects for the garbage collector.
PIECE_BYTES = 2**14
_decode = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def stored_json(name: str, text: msgspec.Raw) -> str | None:
    """The same as values.storable_json of what a JSON object holds; None for null.

    Raises Malformed, or one of values.UNREADABLE_JSON when it is no object.
    """
    members = _decode_object(text)
    if members is None:
        return None
    return values.without_nul(b"".join(_object(members)).decode(), name)


def _written(text: msgspec.Raw) -> Iterator[bytes]:
    view = memoryview(text)
    first = bytes(view[:1]) if view.nbytes > PIECE_BYTES else b""
    if first == b"{":
        yield from _object(_decode_object(view) or {})
    elif first == b"[":
        yield b"["
        yield from _joined(_elements(_decode_array(view)))
        yield b"]"
    elif first == b'"':
        yield b'"'
        yield from (_encode(part)[1:-1] for part in texts_of(view[1:-1]))
        yield b'"'
    else:
        yield _encode(_decode(view))


def _object(members: dict[str, msgspec.Raw]) -> Iterator[bytes]:
    """In the order of names, as the encoder sorts them."""
    yield b"{"
    yield from _joined(b"%b:%b" % (_encode(name), b"".join(_written(members[name]))) for name in sorted(members))
    yield b"}"


def _elements(raws: list[msgspec.Raw]) -> Iterator[bytes]:
    """Small ones together: a million calls would take a second."""
    small: list[msgspec.Raw] = []
    size = 0
    for raw in raws:
        bytes_ = memoryview(raw).nbytes
        if small and size + bytes_ > PIECE_BYTES:
            yield _together(small)
            small, size = [], 0
        if bytes_ > PIECE_BYTES:
            yield b"".join(_written(raw))
        else:
            small.append(raw)
            size += bytes_
    if small:
        yield _together(small)


def _together(raws: list[msgspec.Raw]) -> bytes:
    return _encode(_decode(b"[%b]" % b",".join(raws)))[1:-1]


def _joined(parts: Iterator[bytes]) -> Iterator[bytes]:
    for number, part in enumerate(parts):
        if number:
            yield b","
        yield part
