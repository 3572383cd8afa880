"""The text of a Redis DUMP, for a search: Redis packs strings of more than 20 bytes with LZF. Pure; no I/O."""

from collections.abc import Iterator

# A string that is packed: this byte, the packed length, the length, the bytes.
_PACKED = b"\xc3"
_LARGEST = 512 * 2**20


def texts_of(dump: bytes) -> Iterator[bytes]:
    """The DUMP as it is, and each string in it that can be unpacked. What only looks like one gives text that is in no DUMP."""
    yield dump
    place = dump.find(_PACKED)
    while place >= 0:
        text = _unpacked(dump, place + 1)
        if text is not None:
            yield text
        place = dump.find(_PACKED, place + 1)


def _unpacked(dump: bytes, place: int) -> bytes | None:
    packed_bytes, place = _length(dump, place)
    text_bytes, place = _length(dump, place)
    packed = dump[place : place + packed_bytes]
    if not 0 < len(packed) == packed_bytes or not packed_bytes <= text_bytes <= min(_LARGEST, 300 * packed_bytes):
        return None
    text = bytearray()
    at = 0
    while at < packed_bytes and len(text) < text_bytes:
        control = packed[at]
        at += 1
        if control < 32:
            # So many bytes as they are.
            text += packed[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7 and at < packed_bytes:
            length += packed[at]
            at += 1
        if at >= packed_bytes:
            return None
        start = len(text) - ((control & 0x1F) << 8) - packed[at] - 1
        at += 1
        if start < 0:
            return None
        # Byte by byte: what is repeated may reach into its own copy.
        for offset in range(length + 2):
            text.append(text[start + offset])
    return bytes(text) if len(text) == text_bytes else None


def _length(dump: bytes, place: int) -> tuple[int, int]:
    """A length as RDB writes it, and the place after it. -1 when there is none."""
    first = dump[place : place + 1]
    if not first:
        return -1, place
    kind = first[0] >> 6
    if kind == 0:
        return first[0] & 0x3F, place + 1
    if kind == 1:
        return int.from_bytes(bytes([first[0] & 0x3F]) + dump[place + 1 : place + 2]), place + 2
    if first[0] in (0x80, 0x81):
        size = 4 if first[0] == 0x80 else 8
        return int.from_bytes(dump[place + 1 : place + 1 + size]), place + 1 + size
    return -1, place
