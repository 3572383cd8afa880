"""How keys become rows: values of every kind, ids with colons, unknown fields, and what is refused."""

import json
import sys
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usage_pipeline.drain.families import API_KEY, PROVIDER, TOKEN, Family, parse_api_key, parse_provider, parse_token
from usage_pipeline.drain.members import Value
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.values import Malformed, TimeWindow

CLAIMED_MS = 1_735_732_800_000  # 2025-01-01 12:00 UTC
NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)
WINDOW = TimeWindow.around(CLAIMED_MS, retention_days=180)
MS = str(CLAIMED_MS).encode()


def refusal(family: Family, key: bytes, value: Value) -> str:
    """Why a key, or one member of it, is refused."""
    try:
        [refused] = family.parse(key, value, WINDOW).refused
    except Malformed as malformed:
        return str(malformed)
    return refused.reason


@pytest.mark.parametrize("api_key_id", ["k", "a:b", ":", "{tag}", "naïve-🔑", "metrics", "x" * 200])
def test_an_api_key_hash_becomes_a_row(api_key_id: str) -> None:
    key = f"apikey:{api_key_id}:metrics".encode()
    value = [b"total_requests", b"5", b"failed_requests", b"2", b"successful_requests", b"3"]
    value += [b"total_file_size", b"1024", b"total_files_uploaded", b"1", b"last_used_at", MS]
    assert parse_api_key(key, value, WINDOW).row == (api_key_id, 5, 3, 2, 1024, 1, NOON, None)


def test_every_field_of_an_api_key_is_optional() -> None:
    row = ("k", 0, 0, 1, 0, 0, None, None)
    assert parse_api_key(b"apikey:k:metrics", [b"failed_requests", b"1"], WINDOW) == (row, [])


@pytest.mark.parametrize(
    ("middle", "named", "split"),
    [
        ("k:s3", None, ("k", "s3")),
        ("a:b:s3", None, ("a:b", "s3")),
        ("a:b:s3", "b:s3", ("a", "b:s3")),
        ("a:b:s3", "s3", ("a:b", "s3")),
        ("é:ü", "ü", ("é", "ü")),
    ],
)
def test_the_provider_field_settles_how_a_provider_key_splits(
    middle: str, named: str | None, split: tuple[str, str]
) -> None:
    value = [b"user_id", b"u1", b"upload_count", b"2", b"total_file_size", b"30", b"last_used_at", MS]
    if named is not None:
        value += [b"provider", named.encode()]
    row = parse_provider(f"provider:{middle}:metrics".encode(), value, WINDOW).row
    assert row == (*split, "u1", 2, 30, NOON, None)


@pytest.mark.parametrize(
    ("rest", "named", "split"),
    [
        ("t:i", None, ("t", "i")),
        ("t:host:80", None, ("t", "host:80")),
        ("t:host:80", "host:80", ("t", "host:80")),
        ("t:x:host:80", "host:80", ("t:x", "host:80")),
        ("t:1:1", "1", ("t:1", "1")),
    ],
)
def test_the_instance_id_settles_how_a_token_key_splits(rest: str, named: str | None, split: tuple[str, str]) -> None:
    usage = {"usageCount": 7, "lastUsedAt": "2025-01-01T13:00:00.000+01:00"}
    if named is not None:
        usage["instanceId"] = named
    row = parse_token(f"token_usage:{rest}".encode(), json.dumps(usage).encode(), WINDOW).row
    assert row == (*split, 7, NOON, None)


def test_unknown_fields_are_kept_as_text() -> None:
    value = [b"total_requests", b"1", b"region", b"eu", b"note", rb"a literal \u0000"]
    *_, extra = parse_api_key(b"apikey:k:metrics", value, WINDOW).row
    assert json.loads(extra) == {"region": "eu", "note": r"a literal \u0000"}
    *_, extra = parse_provider(b"provider:k:s3:metrics", value[2:], WINDOW).row
    assert json.loads(extra) == {"region": "eu", "note": r"a literal \u0000"}


def test_unknown_members_are_kept_as_json() -> None:
    usage = {"usageCount": 1, "region": {"name": "eu", "zones": [1, 2.5, None, True]}, "note": r"\u0000"}
    *_, extra = parse_token(b"token_usage:t:i", json.dumps(usage).encode(), WINDOW).row
    assert json.loads(extra) == {"region": {"name": "eu", "zones": [1, 2.5, None, True]}, "note": r"\u0000"}


def test_ten_thousand_unknown_fields_cost_no_more_than_their_number() -> None:
    value = [text for n in range(10_000) for text in (b"f%d" % n, b"1")]
    *_, extra = parse_api_key(b"apikey:k:metrics", value, WINDOW).row
    assert len(json.loads(extra)) == 10_000


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"apikey:k:metrics", [b"total_requests", b"1.5"], "total_requests: expected an integer"),
        (b"apikey:k:metrics", [b"failed_requests", b"-3"], "failed_requests: expected a count of 0 or more"),
        (b"apikey:k:metrics", [b"total_file_size", b"9223372036854775808"], "total_file_size: expected at most"),
        (b"apikey:k:metrics", [b"last_used_at", b"0"], "last_used_at: expected a time from 2024-07-05"),
        (b"apikey:k:metrics", [b"last_used_at", b"2025-01-01"], "last_used_at: expected epoch milliseconds"),
        (b"apikey:k:metrics", [b"x", b"\xff"], "unknown field: expected UTF-8"),
        (b"apikey:k:metrics", [b"\xff", b"x"], "unknown field: expected UTF-8"),
        (b"apikey:k:metrics", [b"x", b"\0"], "unknown field: expected no NUL"),
        (b"apikey::metrics", [b"total_requests", b"1"], "api_key_id: expected 1 to 200 characters, came 0"),
        (b"apikey:\xff:metrics", [b"total_requests", b"1"], "api_key_id: expected UTF-8"),
        (b"apikey:a\0:metrics", [b"total_requests", b"1"], "api_key_id: expected no NUL"),
        (b"apikey:%s:metrics" % (b"x" * 201), [b"total_requests", b"1"], "api_key_id: expected 1 to 200 characters"),
    ],
)
def test_a_malformed_api_key_is_refused_with_its_reason(key: bytes, value: list[bytes], reason: str) -> None:
    assert refusal(API_KEY, key, value).startswith(reason)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"provider:k:metrics", [], "key: expected provider:<api_key_id>:<provider>:metrics"),
        (b"provider:k:s3:metrics", [b"provider", b"gcs"], "provider: expected the end of the key's 'k:s3', came 'gcs'"),
        (b"provider:k:s3:metrics", [b"provider", b""], "provider: expected the end of the key's"),
        (b"provider::s3:metrics", [b"provider", b"s3"], "api_key_id: expected 1 to 200"),
        (b"provider:k:s3:metrics", [b"user_id", b"\xff"], "user_id: expected UTF-8"),
        (b"provider:k:s3:metrics", [b"user_id", b"u" * 201], "user_id: expected 1 to 200"),
        (b"provider:k:s3:metrics", [b"upload_count", b"x"], "upload_count: expected an integer"),
    ],
)
def test_a_malformed_provider_is_refused_with_its_reason(key: bytes, value: list[bytes], reason: str) -> None:
    assert refusal(PROVIDER, key, value).startswith(reason)


DEEP = b"[" * 100_000 + b"]" * 100_000
# From 3.14 on, Python limits the depth of recursion by the room on the stack, so the decoder passes over more levels.
READS_DEEP = sys.version_info >= (3, 14)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "value: expected {usageCount, lastUsedAt, instanceId} as JSON"),
        (b"{", "value: expected {usageCount, lastUsedAt, instanceId} as JSON"),
        (b"[1]", "value: expected {usageCount, lastUsedAt, instanceId} as JSON"),
        (b"{}", "value: expected {usageCount, lastUsedAt, instanceId} as JSON"),
        (b'{"usageCount": 1.5}', "usageCount: expected an integer, came "),
        (b'{"usageCount": "1"}', "usageCount: expected an integer, came "),
        (b'{"usageCount": true}', "usageCount: expected an integer, came "),
        (b'{"usageCount": -1}', "usageCount: expected 0 to 9223372036854775807 (bigint), came -1"),
        (b'{"usageCount": 9223372036854775808}', "usageCount: expected 0 to 9223372036854775807 (bigint), came 92"),
        (b'{"usageCount": 1, "lastUsedAt": "soon"}', "lastUsedAt: expected an ISO-8601 time, came "),
        (b'{"usageCount": 1, "lastUsedAt": "1970-01-01T00:00:00Z"}', "lastUsedAt: expected a time from 2024-07-05"),
        (b'{"usageCount": 1, "instanceId": "other"}', "instanceId: expected the end of the key's 't:i', came 'other'"),
        (b'{"usageCount": 1, "instanceId": ""}', "instanceId: expected the end of the key's"),
        (b'{"usageCount": 1, "instanceId": "\xff"}', "value: expected {usageCount, lastUsedAt, instanceId} as JSON"),
        (b'{"usageCount": 1, "x": "\\u0000"}', "JSON member: expected no NUL"),
        (b'{"usageCount": 1, "\\u0000": 1}', "JSON member: expected no NUL"),
        (b'{"usageCount": 1, "x": "\xff"}', "value: expected JSON members that can be stored"),
        (b'{"usageCount": 1, "\xff": 1}', "value: expected {usageCount, lastUsedAt, instanceId} as JSON"),
        (b'{"usageCount": 1, "x": 1e400000}', "value: expected JSON members that can be stored"),
        (b'{"usageCount": 1, "x": %s}' % (b"9" * 200_000), "value: expected JSON members that can be stored"),
        (b'{"usageCount": 1, "x": %s}' % DEEP, "value: expected"),
        (b'{"usageCount": %s}' % DEEP, "usageCount: expected" if READS_DEEP else "value: expected"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_malformed_token_is_refused_with_its_reason(value: bytes, reason: str) -> None:
    assert refusal(TOKEN, b"token_usage:t:i", value).startswith(reason)


@pytest.mark.parametrize("key", [b"token_usage:", b"token_usage:t", b"token_usage::i", b"token_usage:t:"])
def test_a_token_key_without_both_ids_is_refused(key: bytes) -> None:
    with pytest.raises(Malformed):
        parse_token(key, b'{"usageCount": 1}', WINDOW)


FIELDS = st.sampled_from([b"total_requests", b"last_used_at", b"upload_count", b"user_id", b"provider"]) | st.binary()
HASHES = st.lists(st.tuples(FIELDS, st.binary() | st.integers().map(lambda n: b"%d" % n))).map(
    lambda pairs: [text for pair in pairs for text in pair]
)
# Any bytes, any JSON, and JSON with bytes that break it.
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\0"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
VALUES = (
    st.binary()
    | st.dictionaries(st.sampled_from(["usageCount", "lastUsedAt", "instanceId", "x"]), DOCUMENTS).map(
        lambda value: json.dumps(value).encode()
    )
    | st.binary().map(lambda noise: b'{"usageCount":1,"x":"' + noise + b'"}')
)


@given(st.binary(), HASHES)
@example(b"", [])
def test_no_hash_is_worse_than_malformed(middle: bytes, value: list[bytes]) -> None:
    for family in (API_KEY, PROVIDER):
        try:
            row, refused = family.parse(family.prefix + middle + b":metrics", value, WINDOW)
            for member in refused:
                member.reason.encode()
        except Malformed as malformed:
            str(malformed).encode()
        else:
            assert "\0" not in repr([text for text in row if isinstance(text, str)])


PLAIN_IDS = st.text("ab:-_.{}", max_size=8) | st.text("a\\ \t\0é", max_size=4) | st.just("x" * 201)
COUNTS = st.sampled_from(["0", "12", "007", "-1", "", "1.5", "9" * 18, "9" * 19, str(2**63)])
MOMENTS = st.sampled_from([MS.decode()] * 5 + ["17", "1" + MS.decode(), str(CLAIMED_MS - 200 * 86_400_000)])
API_KEY_HASHES = st.fixed_dictionaries(
    {"last_used_at": MOMENTS},
    optional={
        "total_requests": COUNTS,
        "successful_requests": st.just("3"),
        "failed_requests": st.just("2"),
        "total_file_size": COUNTS,
        "total_files_uploaded": st.just("1"),
        "region": PLAIN_IDS,
    },
)
PROVIDER_HASHES = st.fixed_dictionaries(
    {"upload_count": COUNTS},
    optional={
        "provider": st.just("s3") | PLAIN_IDS,
        "user_id": st.just("u") | PLAIN_IDS,
        "total_file_size": st.just("10"),
        "last_used_at": MOMENTS,
        "region": st.just("eu"),
    },
)


@given(
    st.tuples(st.just(API_KEY), st.just("k") | PLAIN_IDS, API_KEY_HASHES)
    | st.tuples(st.just(PROVIDER), st.just("k:s3") | PLAIN_IDS, PROVIDER_HASHES),
    st.randoms(use_true_random=False),
)
def test_a_plain_line_is_what_the_full_parser_gives(case: tuple[Family, str, dict[str, str]], random: Random) -> None:
    family, middle, fields = case
    key = family.prefix + middle.encode() + family.suffix
    pairs = list(fields.items())
    random.shuffle(pairs)
    value = [text.encode() for pair in pairs for text in pair]
    line = family.plain(key, value, WINDOW)
    if line is not None:
        assert (line, []) == (copy_line(family.parse(key, value, WINDOW).row), family.parse(key, value, WINDOW).refused)


def test_ordinary_hashes_are_plain() -> None:
    counts = [b"total_requests", b"12", b"last_used_at", MS, b"failed_requests", b"0"]
    assert API_KEY.plain(b"apikey:a:b-{c}:metrics", counts, WINDOW) == b"a:b-{c}\t12\t0\t0\t0\t0\t%b000\t\\N" % MS
    uploads = [b"provider", b"s3", b"user_id", b"u", b"upload_count", b"2", b"last_used_at", MS]
    assert PROVIDER.plain(b"provider:a:b:s3:metrics", uploads, WINDOW) == b"a:b\ts3\tu\t2\t0\t%b000\t\\N" % MS
    assert PROVIDER.plain(b"provider:a:b:metrics", uploads, WINDOW) is None, "the field contradicts the key"
    assert API_KEY.plain(b"apikey:k:metrics", [*counts, b"region", b"eu"], WINDOW) is None, "raw keeps unknown fields"


@given(st.binary(), VALUES)
def test_no_string_is_worse_than_malformed(rest: bytes, value: bytes) -> None:
    try:
        *_, extra = TOKEN.parse(TOKEN.prefix + b"t:" + rest, value, WINDOW).row
    except Malformed as malformed:
        str(malformed).encode()
    else:
        assert extra is None or isinstance(json.loads(extra), dict)
