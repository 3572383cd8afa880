"""A JSON string that is copied in pieces is the text that a JSON reader makes of it, wherever the pieces end."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.ingest import long_texts
from usage_pipeline.events.ingest.long_texts import append_copied
from usage_pipeline.values import Malformed


def copied_text(name: str, written: bytes, most: int) -> bytes | None:
    """What is appended, or None for the text of null."""
    line = bytearray(b"before\t")
    has_text = append_copied(line, name, written, most)
    assert line.startswith(b"before\t")
    assert has_text or line.endswith(b"\t\\N")
    return bytes(line[7:]) if has_text else None


_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from('\\\t\n\r"/ü😀漢u0d8'), max_size=60
)


@given(TEXTS, st.booleans(), st.integers(12, 30))
def test_any_text_in_any_pieces_is_copied_as_postgresql_reads_it(text: str, is_ascii: bool, piece: int) -> None:
    written = json.dumps(text, ensure_ascii=is_ascii).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "PIECE_BYTES", piece)
        copied = copied_text("prompt", written, 60)
    assert (copied or b"").decode() == "".join(_ESCAPES.get(one, one) for one in text)


@given(st.lists(st.sampled_from([rb"\ud83d", rb"\ude00", rb"\\", "😀".encode(), b"\xff", rb"\u00", b"a"]), max_size=12))
def test_what_is_no_text_is_refused_wherever_the_pieces_end(parts: list[bytes]) -> None:
    written = b'"' + b"".join(parts) + b'"'

    def outcome() -> bytes | None:
        try:
            return copied_text("prompt", written, 60)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return b"refused"

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        for piece in range(12, 24):
            patch.setattr(long_texts, "PIECE_BYTES", piece)
            assert outcome() == whole


def test_the_reason_says_how_long_and_where() -> None:
    with pytest.raises(Malformed, match="prompt: expected at most 3 characters, came 600001"):
        copied_text("prompt", b'"' + "ü".encode() * 600_001 + b'"', 3)
    with pytest.raises(Malformed, match="one at position 300000"):
        copied_text("prompt", b'"' + b"a" * 300_000 + rb"\u0000" + b'"', 400_000)
