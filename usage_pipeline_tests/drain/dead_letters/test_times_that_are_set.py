"""A time that a person sets may be written as it is read: ISO-8601, or epoch milliseconds, in every kind of counter."""

import json

import hiredis
import pytest

from usage_pipeline.drain.batch import raw_value
from usage_pipeline.drain.corrections import ANY, change

HASH = bytes(hiredis.pack_command((b"total_requests", b"5", b"last_used_at", b"soon")))
MS = "1795176000123"


@pytest.mark.parametrize(
    "given", [MS, "2026-11-20T12:00:00.123Z", "2026-11-20T13:00:00.123+01:00", "2026-11-20 12:00:00.123"]
)
def test_a_time_is_written_as_its_counter_has_it(given: str) -> None:
    changed = change(HASH, "hash", "last_used_at", ANY, {"last_used_at": given})
    assert raw_value(changed.raw, "hash")[3] == MS.encode()
    assert changed.before == {"last_used_at": "soon"}


@pytest.mark.parametrize("name", ["lastUsedAt", "at"])
@pytest.mark.parametrize("given", [MS, "2026-11-20T12:00:00.123000+00:00"])
def test_a_time_in_json_is_iso(name: str, given: str) -> None:
    changed = change(json.dumps({name: "soon"}).encode(), "string", name, ANY, {name: given})
    assert json.loads(changed.raw) == {name: "2026-11-20T12:00:00.123000+00:00"}


@pytest.mark.parametrize("given", ["yesterday", "", "9" * 40, "²"])
def test_what_is_no_time_stays_as_it_is_and_is_refused_again(given: str) -> None:
    assert (
        raw_value(change(HASH, "hash", "last_used_at", ANY, {"last_used_at": given}).raw, "hash")[3] == given.encode()
    )
    changed = change(b'{"at": "soon"}', "string", "at", ANY, {"at": given})
    assert json.loads(changed.raw)["at"] in (given, int(given) if given.isdecimal() else given)
