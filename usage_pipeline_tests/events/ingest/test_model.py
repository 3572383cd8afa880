"""One item: what is taken, what is refused, and the reason that the caller is given."""

import json
import tracemalloc
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.ingest.model import EventWindow, Item, UsageEvent, parse_archive, parse_event
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event

WINDOW = EventWindow.around(NOW, Settings(retention_days=180))


def parsed(**changes: Any) -> Item:
    return parse_event(as_items(event(**changes))[0], WINDOW)


def payload(item: Item) -> list[bytes]:
    """The columns after id, hash and time."""
    return item.payload.split(b"\t")


def test_an_event_becomes_a_row_in_the_order_of_its_staging_table() -> None:
    at = NOW - timedelta(days=3, microseconds=1)
    item = parsed(
        event_time=at.isoformat(), error_type="timeout", prompt="a\tb", extra={"b": 1, "a": "ü"}, total_tokens=120
    )
    row = [b"user-1", b"search", b"chat", b"openai", b"gpt-4o", b"100", b"20", b"120", b"350", b"200", b"timeout"]
    assert payload(item) == [*row, b"a\\tb", '{"a":"ü","b":1}'.encode()]
    assert item.event_time == at
    position, event_id, payload_hash, time, *columns = b"".join(item.staged(7)).rstrip(b"\n").split(b"\t")
    assert (position, uuid.UUID(event_id.decode())) == (b"7", item.event_id)
    assert columns == [*payload(item), *[b"\\N"] * 15], "without the members that most events do not have"
    assert payload_hash == b"\\\\x" + item.payload_hash.encode()
    assert datetime.fromisoformat(time.decode()) == at


@pytest.mark.parametrize(
    ("members", "total"),
    [
        ({"total_tokens": 120}, b"120"),
        ({}, b"120"),
        ({"total_tokens": 30, "input_tokens": ...}, b"30"),
        ({"total_tokens": 100, "output_tokens": None}, b"100"),
        ({"output_tokens": ...}, b"100"),
        ({"output_tokens": ..., "total_tokens": 0}, b"100"),
        ({"input_tokens": None}, b"20"),
        ({"input_tokens": ..., "output_tokens": ..., "total_tokens": 5}, b"5"),
        ({"input_tokens": ..., "output_tokens": ...}, b"0"),
    ],
)
def test_total_tokens_are_as_given_or_the_sum_of_the_parts_that_are(members: dict[str, Any], total: bytes) -> None:
    assert payload(parsed(**members))[7] == total


def test_a_retry_that_stamps_its_own_time_has_the_same_hash_and_any_other_change_another() -> None:
    first = event(extra={"a": 1, "b": 2})
    changes: list[dict[str, Any]] = [
        {"event_time": NOW.isoformat()},
        {"extra": {"b": 2, "a": 1}},
        {"total_tokens": 120},
        {"user_id": "user-2"},
        {"latency_ms": 351},
        {"latency_ms": None},
        {"error_type": "x"},
        {"extra": {"a": 1, "b": 3}},
    ]
    hashes = [parse_event(as_items(first | change)[0], WINDOW).payload_hash for change in ({}, *changes)]
    assert hashes[:4] == [hashes[0]] * 4
    assert len(set(hashes[3:])) == len(hashes[3:])


@pytest.mark.parametrize("name", ["error_type", "prompt"])
def test_an_empty_optional_text_is_the_same_as_none(name: str) -> None:
    first = event()
    [empty, null, absent] = [
        parse_event(as_items(first | change)[0], WINDOW) for change in ({name: ""}, {name: None}, {})
    ]
    assert empty == null == absent


def test_empty_texts_of_an_archive_are_none() -> None:
    first = archive(str(uuid.uuid4()), response_full=...)
    assert parse_archive(as_items(first | {"response_full": ""})[0], WINDOW) == parse_archive(
        as_items(first)[0], WINDOW
    )
    with pytest.raises(Malformed, match="expected at least one of them, came none"):
        parse_archive(as_items(first | {"prompt_full": "", "response_full": ""})[0], WINDOW)


WHOLE = ("input_tokens", "output_tokens", "total_tokens", "latency_ms", "status_code")


def test_whole_numbers_may_be_written_as_floats() -> None:
    """As pandas writes a column that has a gap; and an exponent is only another way to write the same number."""
    first = event(input_tokens=1_000, total_tokens=1_020)
    line = json.dumps(first | {name: float(first[name]) for name in WHOLE})
    for written in (line, line.replace("1000.0", "1e3")):
        assert parse_event(written.encode(), WINDOW) == parse_event(as_items(first)[0], WINDOW)
    pandas = pytest.importorskip("pandas")
    exported = pandas.DataFrame([first, event(output_tokens=..., total_tokens=...)]).to_json(
        orient="records", lines=True
    )
    assert '"output_tokens":20.0' in exported
    assert [parse_event(one.encode(), WINDOW).payload for one in exported.splitlines()] == [
        parse_event(as_items(first)[0], WINDOW).payload,
        parsed(output_tokens=...).payload,
    ]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("10.5", "expected a whole number, came 10.5"),
        ('"10"', 'expected a whole number, came "10"$'),
        ("true", "expected a whole number, came true"),
        ("9007199254740993.0", "expected so large a number in digits alone"),
        ("1e400", "out of range"),
    ],
)
def test_other_numbers_are_refused_and_never_rounded(name: str, written: str, reason: str) -> None:
    line = json.dumps(event(**{name: "here"})).replace('"here"', written)
    with pytest.raises(Malformed, match=reason):
        parse_event(line.encode(), WINDOW)


def test_events_from_before_the_first_day_of_usage_are_refused_in_the_time_zone_of_days() -> None:
    settings = Settings(usage_start_date=NOW.date() - timedelta(days=3), usage_timezone="Asia/Kolkata")
    window = EventWindow.around(NOW, settings)
    first = datetime.fromisoformat(f"{settings.usage_start_date}T00:00:00+05:30")
    assert parse_event(as_items(event(event_time=first.isoformat()))[0], window).event_time == first
    before = (first - timedelta(microseconds=1)).isoformat()
    with pytest.raises(Malformed, match=rf"event_time: expected a time from .* \(USAGE_START_DATE={first:%F}\)"):
        parse_event(as_items(event(event_time=before))[0], window)


def test_an_offset_is_understood() -> None:
    at = NOW - timedelta(hours=2)
    assert parsed(event_time=at.astimezone().isoformat()).event_time == at
    assert parsed(event_time=f"{at:%Y-%m-%dT%H:%M:%S}Z").event_time == at


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"event_id": ...}, "missing required field `event_id`"),
    ({"event_id": 1}, "event_id: expected a text, came 1$"),
    ({"event_time": "yesterday"}, 'event_time: expected an ISO-8601 time .*, for example .*Z, came "yesterday"$'),
    ({"event_time": "29.11.2026 10:00"}, 'event_time: expected an .* came "29.11.2026 10:00"$'),
    ({"event_time": 46355.4}, "event_time: expected an .* came 46355.4$"),
    ({"event_time": "2026-11-20T10:00:00"}, "event_time: expected an ISO-8601 time with its offset"),
    ({"event_time": (NOW - timedelta(days=180, seconds=1)).isoformat()}, r"\(RETENTION_DAYS=180\)"),
    ({"event_time": (NOW + timedelta(minutes=5, seconds=1)).isoformat()}, r"\(now and 5 minutes\)"),
    ({"user_id": ""}, "user_id: expected 1 to 200 characters, came 0"),
    ({"team": "x" * 201}, "team: expected 1 to 200 characters, came 201"),
    ({"service": "a\0b"}, "service: expected no NUL character, came one at position 1"),
    ({"provider": None}, "provider: expected a text, came null$"),
    ({"model": 4}, "model: expected a text, came 4$"),
    ({"model": ["x" * 99]}, r"model: expected a text, came \[\"x{57}…$"),
    ({"input_tokens": -1}, "input_tokens: expected 0 to 9223372036854775807, came -1"),
    ({"output_tokens": 2**63}, "output_tokens: expected 0 to 9223372036854775807, came 9223372036854775808"),
    ({"input_tokens": 2**63 - 1, "output_tokens": 1}, "input_tokens . output_tokens: expected 0 to"),
    ({"total_tokens": 119}, r"input_tokens \+ output_tokens = 120, came 119\. Leave total_tokens out"),
    ({"output_tokens": None, "total_tokens": 99}, "total_tokens: expected at least input_tokens = 100, came 99"),
    ({"input_tokens": None, "total_tokens": 19}, "total_tokens: expected at least output_tokens = 20, came 19"),
    ({"total_tokens": 1.5}, "total_tokens: expected a whole number, came 1.5"),
    ({"total_tokens": True}, "total_tokens: expected a whole number, came true$"),
    ({"input_tokens": "1,234"}, 'input_tokens: expected a whole number, came "1,234"$'),
    ({"latency_ms": 2**31}, "latency_ms: expected 0 to 2147483647, came 2147483648"),
    ({"status_code": 99}, "status_code: expected 100 to 599, came 99"),
    ({"status_code": 600}, "status_code: expected 100 to 599, came 600"),
    ({"error_type": "x" * 201}, "error_type: expected 1 to 200 characters, came 201"),
    ({"prompt": "a\0"}, "prompt: expected no NUL character, came one at position 1"),
    ({"prompt": "x" * 1_000_001}, "prompt: expected at most 1000000 characters, came 1000001"),
    ({"extra": [1]}, "Expected `object | null`, got `array`"),
    ({"extra": {"a": "\0"}}, "extra: expected no NUL character, came one"),
    ({"extra": {"a": "x" * 1_000_000}}, "extra: expected at most 1000000 characters"),
    ({"total_token": 1}, "unknown field `total_token`"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parsed(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"event_time": (NOW - timedelta(days=180)).isoformat()},
        {"event_time": (NOW + timedelta(minutes=5)).isoformat()},
        {"user_id": "ü" * 200, "team": "x" * 200},
        {"input_tokens": 2**63 - 1, "output_tokens": 0},
        {"latency_ms": 2**31 - 1, "status_code": 599},
        {"latency_ms": 0, "status_code": 100},
        {"prompt": "x" * 1_000_000},
        {"extra": {"a": "\\u0000"}},
    ],
)
def test_the_last_value_before_a_limit_is_taken(changes: dict[str, Any]) -> None:
    assert parsed(**changes)


@pytest.mark.parametrize(
    "item", [b"", b"[]", b"nonsense", b'{"event_id":', b"\xff", b"[" * 100_000, b"null", b'"\xff"']
)
def test_what_is_no_event_at_all_is_refused(item: bytes) -> None:
    with pytest.raises(Malformed, match="expected a usage event as a JSON object"):
        parse_event(item, WINDOW)


def test_deep_or_huge_values_in_extra_are_refused_and_not_raised() -> None:
    text = json.dumps(event())[:-1]
    for extra in ('{"a":' * 5_000 + "1" + "}" * 5_000, '{"a": 1e400000}', '{"a": "\\ud800"}'):
        with pytest.raises(Malformed):
            parse_event(f'{text}, "extra": {extra}}}'.encode(), WINDOW)


@pytest.mark.parametrize(("opening", "closing"), ["{}", "[]"])
@pytest.mark.parametrize("member", ["extra", "provider_usage"])
def test_what_is_nested_just_so_deeply_that_it_can_be_read_is_stored_or_refused(
    member: str, opening: str, closing: str
) -> None:
    """Whoever does more with it than the decoder did runs out of frames: an item like that would end each drain anew."""
    usage = '"model": "gpt-4o", "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, '
    before = {"extra": '{"a": ', "provider_usage": f'{{{usage}"a": '}[member]
    after = {"extra": "}", "provider_usage": "}}"}[member]
    step = '{"a":' if opening == "{" else "["
    text = json.dumps(event(provider="openai", input_tokens=None, output_tokens=None))[:-1]
    outcomes = set()
    # How deep that is depends on Python; from 3.14 on, on the room on the stack. So many values are refused by any.
    for depth in (*range(700, 1_010), *range(1_100, 10_000, 300), 12_000):
        item = f'{text}, "{member}": {before}{step * depth}1{closing * depth}{after}}}'.encode()
        try:
            outcomes.add(bool(parse_event(item, WINDOW).payload))
        except Malformed as malformed:
            outcomes.add("expected" in str(malformed))
            is_refused = True
    assert outcomes == {True}
    assert is_refused


def test_extra_has_few_values_and_any_number_of_signs_in_texts() -> None:
    def extra(written: str) -> bytes:
        return json.dumps(event(extra="here")).replace('"here"', written).encode()

    most = '{"a":[' + "1," * 9_998 + "1]}"
    text = json.dumps({"a": ',[{"\\' * 100_000, "b": [1]})
    for written in (most, text):
        assert parse_event(extra(written), WINDOW).payload
    for written in ('{"a":[' + "[]," * 240_000 + "1]}", '{"a":[' + "1," * 9_999 + "1]}", f'{{"a":{text},"b":{most}}}'):
        with pytest.raises(Malformed, match="extra: expected at most 10000 values, came more"):
            parse_event(extra(written), WINDOW)


def test_a_usage_object_has_few_levels() -> None:
    """Three thousand values below nine hundred objects, 8 KB as gzip, took a thread and everybody else's a second."""
    counts = '{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}'
    for levels, is_taken in ((18, True), (21, False), (900, False)):
        for around in ('{"usage":%s}', '{"usage":[%s]}'):
            answer = counts
            for _ in range(levels // (2 if "[" in around else 1)):
                answer = around % answer
            answer = f'{{"model": "gpt-4o", "usage": {counts}, "rest": {answer}}}' if is_taken else answer
            members = event(provider="openai", provider_usage="here", input_tokens=None, output_tokens=None)
            item = json.dumps(members).replace('"here"', answer).encode()
            if is_taken:
                assert parse_event(item, WINDOW).payload
            else:
                with pytest.raises(
                    Malformed, match="provider_usage: expected at most 20 objects and lists in each other"
                ):
                    parse_event(item, WINDOW)


def test_a_usage_object_has_few_values() -> None:
    """Of 330,000 empty lists, which are a kilobyte as gzip, one took a thread and everybody else's 0.7 s."""
    usage = '"model": "gpt-4o", "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, "rest": '
    for written, is_taken in (("[]," * 4_000, True), ("[]," * 330_000, False)):
        answer = f"{{{usage}[{written}1]}}"
        members = event(provider="openai", provider_usage="here", input_tokens=None, output_tokens=None)
        item = json.dumps(members).replace('"here"', answer).encode()
        if is_taken:
            assert parse_event(item, WINDOW).payload
        else:
            with pytest.raises(Malformed, match="provider_usage: expected at most 10000 values, came more"):
                parse_event(item, WINDOW)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=10))
def test_any_value_in_any_member_is_a_row_or_a_reason(value: object) -> None:
    for name in UsageEvent.__struct_fields__:
        item = json.dumps(event() | {name: value, "extra": {"a": value}}).encode()
        try:
            line = b"".join(parse_event(item, WINDOW).staged(0))
        except Malformed:
            continue
        assert line.count(b"\t") == 31
        assert line.count(b"\n") == 1


_NUMBERS = (
    st.none()
    | st.integers(-1, 700)
    | st.floats(-1, 700)
    | st.integers(-1, 700).map(float)
    | st.sampled_from([2**31 - 1, 2**31, 2**63 - 1, 2**63])
)
_TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\\\t\n\r\0"), max_size=4)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("user_id", "team", "model", "error_type", "prompt"), _TEXTS)
        | dict.fromkeys(("input_tokens", "output_tokens", "total_tokens", "latency_ms", "status_code"), _NUMBERS)
        | {"extra": st.none() | st.dictionaries(_TEXTS, _NUMBERS, max_size=2)},
    )
)
def test_a_plain_event_becomes_the_row_that_the_rules_make_one_by_one(changes: dict[str, Any]) -> None:
    from usage_pipeline.events.ingest.model import _parse_any_event

    def outcome(parse: Any) -> Item | str:
        try:
            return parse(item, WINDOW)
        except Malformed as malformed:
            return str(malformed)

    item = as_items(event(**changes))[0]
    assert outcome(parse_event) == outcome(_parse_any_event)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", '"😀' + "a" * 40_000_000 + '"'),
        ("prompt", '"😀' + "a" * 12_000_000 + '"'),
        ("user_id", '"😀' + "a" * 12_000_000 + '"'),
        ("extra", '{"a": [' + "[]," * 4_000_000 + "1]}"),
        ("extra", '{"a": [' + '{"a":1},' * 1_000_000 + "1]}"),
        ("extra", '"' + "a" * 12_000_000 + '"'),
        ("latency_ms", "1" * 12_000_000),
        ("usage", '{"a": [' + "[]," * 4_000_000 + "1]}"),
        ("provider_usage", '{"a": [' + "[]," * 4_000_000 + "1]}"),
        ("tags", '{"a": [' + "[]," * 4_000_000 + "1]}"),
    ],
    ids=[
        *("larger than any event", "prompt", "id", "lists", "objects", "text", "number"),
        *("usage", "provider_usage", "tags"),
    ],
)
def test_a_large_item_is_refused_before_it_becomes_objects(name: str, value: str) -> None:
    """A single wide character makes each of the others four bytes; a list takes 24 times its three characters."""
    item = json.dumps(event(**{name: "here"})).replace('"here"', value).encode()
    tracemalloc.start()
    with pytest.raises(Malformed, match="expected"):
        parse_event(item, WINDOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 2**20


@given(
    st.fixed_dictionaries(
        {"prompt": st.text(max_size=20).map(lambda text: text * 2_000)},
        optional={"extra": st.dictionaries(_TEXTS, _TEXTS, max_size=3), "team": _TEXTS, "latency_ms": _NUMBERS},
    ),
    st.booleans(),
)
def test_a_large_event_becomes_the_row_of_the_same_rules(changes: dict[str, Any], is_ascii: bool) -> None:
    from usage_pipeline.events.ingest.model import _parse_any_event

    def outcome(parse: Any) -> Item | str:
        try:
            return parse(item, WINDOW)
        except Malformed as malformed:
            return str(malformed)

    item = json.dumps(event(**changes), ensure_ascii=is_ascii).encode()
    assert outcome(parse_event) == outcome(_parse_any_event)


def test_an_archive_needs_a_prompt_or_a_response_within_its_limits() -> None:
    event_id = str(uuid.uuid4())

    def parsed_archive(**changes: Any) -> Item:
        return parse_archive(as_items(archive(event_id, **changes))[0], WINDOW)

    assert payload(parsed_archive(response_full=...))[-2:] == [b"What is a ledger?", b"\\N"]
    assert parsed_archive(prompt_full="x" * 16_000_000)
    for changes, reason in (
        ({"prompt_full": None, "response_full": None}, "expected at least one of them"),
        ({"response_full": "x" * 16_000_001}, "response_full: expected at most 16000000 characters"),
        ({"prompt_full": "\0"}, "prompt_full: expected no NUL character"),
        ({"user_id": ""}, "user_id: expected 1 to 200 characters"),
        ({"prompt": "x"}, "unknown field `prompt`"),
    ):
        with pytest.raises(Malformed, match=reason):
            parsed_archive(**changes)
