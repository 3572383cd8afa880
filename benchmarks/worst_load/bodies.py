"""The largest and the widest bodies that the limits let in."""

import json
import random
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from usage_pipeline.events.ingest.model import MAX_ARCHIVE_CHARACTERS, MAX_EXTRA_CHARACTERS, MAX_PROMPT_CHARACTERS
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import ARCHIVES_PATH, EVENTS_PATH

# As JSON may write a character at its longest, and as UTF-8 does.
_ESCAPED, _WIDE = "\\ud83d\\ude00", "😀"
_ROOM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent to a path. `ids` are events that must be stored before."""

    name: str
    path: str
    content: bytes
    is_gzip: bool
    ids: tuple[str, ...] = ()


def all_bodies(settings: Settings, number: int) -> Iterator[Body]:
    """One of each kind, with ids of its own."""
    most, whole = settings.max_gzip_size, settings.max_decompressed_bytes
    yield _plain(settings.max_bulk_size, most)
    yield _packed_to_both_limits(settings.max_bulk_size, most, whole, number)
    yield _small_but_large(settings.max_bulk_size, whole)
    yield _one_event("an event of the longest escapes", _ESCAPED, MAX_PROMPT_CHARACTERS, MAX_EXTRA_CHARACTERS - 20)
    yield _many_lists(whole)
    yield _one_archive("an archive of wide characters", _WIDE, MAX_ARCHIVE_CHARACTERS, MAX_ARCHIVE_CHARACTERS)
    escaped = (whole - _ROOM_BYTES) // len(_ESCAPED)
    yield _one_archive("an archive of escapes", _ESCAPED, min(escaped, MAX_ARCHIVE_CHARACTERS), 0)
    yield _archives(settings.max_bulk_size, whole)


def _packed(*parts: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, wbits=31)
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def _json(*members: dict[str, object]) -> bytes:
    return b"[" + b",".join(json.dumps(one, ensure_ascii=False).encode() for one in members) + b"]"


def _events(count: int, **changes: object) -> list[dict[str, object]]:
    at = datetime.now(UTC) - timedelta(hours=1)
    return [event(event_time=(at + timedelta(seconds=n)).isoformat(), **changes) for n in range(count)]


def _plain(items: int, most: int) -> Body:
    """As many items as may be, without gzip, as large as may be."""
    characters = (most - _ROOM_BYTES - len(_json(*_events(items, prompt="")))) // items // len(_WIDE.encode())
    content = _json(*_events(items, prompt=_WIDE * characters))
    assert most - 2 * _ROOM_BYTES < len(content) <= most
    return Body("10 MB as they are", EVENTS_PATH, content, is_gzip=False)


def _packed_to_both_limits(items: int, most: int, whole: int, seed: int) -> Body:
    """20 times as much once decompressed, and yet as large as may be when it is sent."""
    each = (whole - _ROOM_BYTES - len(_json(*_events(items, prompt="")))) // items
    source = random.Random(seed)
    # A hexadecimal digit takes two thirds of a byte in the quickest gzip.
    noise = most * 14 // 10 // items
    parts = [
        json.dumps(one)
        .encode()
        .replace(b'"here"', b'"%b%b"' % (source.randbytes(noise // 2).hex().encode(), b"a" * (each - noise)))
        for one in _events(items, prompt="here")
    ]
    content = _packed(b"[", b",".join(parts), b"]", level=1)
    assert most * 0.8 < len(content) <= most, len(content)
    return Body("10 MB of gzip, 200 MB", EVENTS_PATH, content, is_gzip=True)


def _small_but_large(items: int, whole: int) -> Body:
    """The same size of zeros: little to send."""
    each = (whole - _ROOM_BYTES - len(_json(*_events(items, prompt="")))) // items
    parts = [
        json.dumps(one).encode().replace(b'"here"', b'"%b"' % (b"a" * each)) for one in _events(items, prompt="here")
    ]
    return Body("200 KB of gzip, 200 MB", EVENTS_PATH, _packed(b"[", b",".join(parts), b"]"), is_gzip=True)


def _one_event(name: str, character: str, prompt: int, extra: int) -> Body:
    head, tail = json.dumps(_events(1, prompt="here", extra={"a": "there"})[0]).encode().split(b'"here"')
    between, end = tail.split(b'"there"')
    wide = character.encode()
    parts = (b"[", head, b'"', wide * prompt, b'"', between, b'"', wide * (extra // 2), b'"', end, b"]")
    return Body(name, EVENTS_PATH, _packed(*parts), is_gzip=True)


def _many_lists(whole: int) -> Body:
    """An extra member of as many values as it may have, in each of as many events as have room."""
    value = b'{"a":[' + b"[]," * 330_000 + b"1]}"
    one = [
        json.dumps(made).encode().replace(b'"here"', value) for made in _events(whole // len(value) - 1, extra="here")
    ]
    return Body("lists", EVENTS_PATH, _packed(b"[", b",".join(one), b"]"), is_gzip=True)


def _one_archive(name: str, character: str, prompt: int, response: int) -> Body:
    number = str(uuid.uuid4())
    head = json.dumps({"event_id": number, "user_id": "user-1", "service": "chat"}).encode()[:-1]
    wide = character.encode()
    parts = [b"[", head, b',"prompt_full":"', wide * prompt, b'"']
    if response:
        parts += [b',"response_full":"', wide * response, b'"']
    return Body(name, ARCHIVES_PATH, _packed(*parts, b"}]"), is_gzip=True, ids=(number,))


def _archives(items: int, whole: int) -> Body:
    """As many archives as may be, of the same size."""
    ids = [str(uuid.uuid4()) for _ in range(items)]
    each = (whole - _ROOM_BYTES) // items - 400
    made = [
        json.dumps({"event_id": one, "user_id": "user-1", "service": "chat", "prompt_full": "here"}).encode()
        for one in ids
    ]
    wide = _WIDE.encode() * (each // len(_WIDE.encode()))
    parts = [one.replace(b'"here"', b'"%b"' % wide) for one in made]
    return Body(
        "a thousand archives", ARCHIVES_PATH, _packed(b"[", b",".join(parts), b"]"), is_gzip=True, ids=tuple(ids)
    )
