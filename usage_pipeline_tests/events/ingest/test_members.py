"""The members of an event that most events do not have (contracts §8.1): what they become, and what is refused why."""

import json
import uuid
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.events.ingest.model import EventWindow, Item, _parse_any_event, parse_event
from usage_pipeline.events.units.registry import NAMED_UNITS
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event

WINDOW = EventWindow.around(NOW, Settings(retention_days=180))
MORE = (
    *NAMED_UNITS,
    *("unattributed_tokens", "other_units", "service_tier", "cost_usd", "api_key_id", "tags", "source", "external_id"),
)


def parsed(sender: str = "a-token", **changes: Any) -> Item:
    return parse_event(as_items(event(**changes))[0], WINDOW, sender)


def columns(item: Item) -> dict[str, str]:
    """What is not null of an event, by column."""
    short = ("input_tokens", "output_tokens", "total_tokens")
    texts = item.wide_payload().decode().split("\t")
    values = dict(zip(short, texts[5:8], strict=True)) | dict(zip(MORE, texts[13:], strict=True))
    return {name: text for name, text in values.items() if text != "\\N"}


def more(**changes: Any) -> dict[str, str]:
    """What an event has beside the counts that it always has."""
    found = columns(parsed(**changes))
    return {name: found[name] for name in MORE if name in found}


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, {}),
        ({"usage": {}, "provider_usage": {}, "tags": {}, "service_tier": "", "cost_usd": "", "api_key_id": ""}, {}),
        ({"usage": None, "provider_usage": None, "tags": None, "service_tier": None, "cost_usd": None}, {}),
        ({"usage": {"cache_read_tokens": 90.0}}, {"cache_read_tokens": "90"}),
        ({"usage": {"cache_read_tokens": 0, "web_searches": 2}}, {"other_units": '{"web_searches":2}'}),
        ({"usage": {"audio_seconds": 12.5}}, {"other_units": '{"audio_seconds":12.5}'}),
        (
            {"usage": {"cache_read_tokens": 9, "input_audio_tokens": 8}},
            {
                "cache_read_tokens": "9",
                "input_audio_tokens": "8",
                "other_units": '{"cache_audio_read_tokens":null}',
            },
        ),
        ({"service_tier": "batch"}, {"service_tier": "batch"}),
        ({"api_key_id": "key\t1"}, {"api_key_id": "key\\t1"}),
        ({"cost_usd": 0}, {"cost_usd": "0"}),
        ({"cost_usd": 0.0042}, {"cost_usd": "0.0042"}),
        ({"cost_usd": "0.00420"}, {"cost_usd": "0.0042"}),
        ({"cost_usd": 3.4500000000000004e-06}, {"cost_usd": "0.0000034500000000000004"}),
        ({"cost_usd": "1e3"}, {"cost_usd": "1000"}),
        ({"tags": {"b": "2", "a": "1", "c": "", "d": None}}, {"tags": '{"a":"1","b":"2"}'}),
        ({"tags": {"a": "x\ty\\"}}, {"tags": '{"a":"x\\\\ty\\\\\\\\"}'}),
        ({"source": "gateway-1"}, {"source": "gateway-1"}),
        ({"source": ""}, {}),
    ],
)
def test_each_member_becomes_its_column(changes: dict[str, Any], right: dict[str, str]) -> None:
    assert more(**changes) == right


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        (
            {"provider": "google", "model": "gemini-2.5-flash", "total_tokens": 1_020},
            {"output_tokens": "920", "total_tokens": "1020", "output_reasoning_tokens": "900"},
        ),
        (
            {
                "provider": "google",
                "model": "gemini-2.5-flash",
                "total_tokens": 1_020,
                "usage": {"output_reasoning_tokens": 900},
            },
            {"output_tokens": "920", "total_tokens": "1020", "output_reasoning_tokens": "900"},
        ),
        (
            {
                "provider": "google",
                "model": "gemini-2.5-flash",
                "total_tokens": 1_020,
                "usage": {"output_reasoning_tokens": 10},
            },
            {"total_tokens": "1020", "output_reasoning_tokens": "10", "unattributed_tokens": "900"},
        ),
        ({"total_tokens": 130}, {"total_tokens": "130", "unattributed_tokens": "10"}),
        (
            {"provider": "google", "model": "claude-sonnet-4-5", "total_tokens": 130},
            {"total_tokens": "130", "unattributed_tokens": "10"},
        ),
        ({"output_tokens": None, "total_tokens": 130}, {"total_tokens": "130"}),
        (
            {"input_tokens": None, "output_tokens": None, "usage": {"input_tokens": 7, "output_tokens": 2}},
            {"input_tokens": "7", "output_tokens": "2", "total_tokens": "9"},
        ),
        ({"usage": {"input_tokens": 100}}, {}),
        (
            {
                "input_tokens": None,
                "output_tokens": None,
                "provider_usage": {
                    "prompt_tokens": 7,
                    "completion_tokens": 2,
                    "total_tokens": 9,
                    "prompt_tokens_details": {"cached_tokens": 5},
                },
            },
            {"input_tokens": "7", "output_tokens": "2", "total_tokens": "9", "cache_read_tokens": "5"},
        ),
        (
            {
                "provider": "google",
                "model": "gemini-2.5-flash",
                "input_tokens": None,
                "output_tokens": None,
                "total_tokens": 1_320,
                "provider_usage": {"promptTokenCount": 120, "candidatesTokenCount": 300, "thoughtsTokenCount": 900},
            },
            {
                "input_tokens": "120",
                "output_tokens": "1200",
                "total_tokens": "1320",
                "output_reasoning_tokens": "900",
            },
        ),
    ],
)
def test_counts_come_from_all_that_tells_them(changes: dict[str, Any], right: dict[str, str]) -> None:
    plain = {"input_tokens": "100", "output_tokens": "20", "total_tokens": "120"}
    kept = {} if changes.get("output_tokens", "") is None and "usage" not in changes else plain
    found = columns(parsed(**changes))
    if changes.get("input_tokens", "") is not None and changes.get("output_tokens", "") is None:
        kept = {"input_tokens": "100"}
    assert found == kept | right


@pytest.mark.parametrize("has_more", [False, True])
@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("0.1234567890123456789", "0.1234567890123456789"),
        ("123456789.123456789012345", "123456789.123456789012345"),
        ("1.0000000000000000000001", "1.0000000000000000000001"),
        ("1.5E-8", "0.000000015"),
        ("2.50", "2.5"),
        ('"0.1234567890123456789"', "0.1234567890123456789"),
    ],
)
def test_a_number_of_dollars_keeps_all_its_digits(written: str, right: str, has_more: bool) -> None:
    sent = event(cost_usd="here", usage={"web_searches": 1} if has_more else None)
    item = json.dumps(sent).replace('"here"', written).encode()
    assert columns(parse_event(item, WINDOW, "a-token"))["cost_usd"] == right


@pytest.mark.parametrize(
    ("more_usage", "right"),
    [
        ({"prompt_cache_hit_tokens": 64}, {"cache_read_tokens": "64"}),
        (
            {"cache_read_input_tokens": 64, "cache_creation_input_tokens": 9},
            {"cache_read_tokens": "64", "cache_write_tokens": "9"},
        ),
        ({"num_cached_tokens": 64}, {"other_units": '{"cache_read_tokens":null}'}),
        ({"total_tokens": 170}, {"total_tokens": "170", "unattributed_tokens": "20"}),
        ({"total_tokens": 150.0}, {}),
    ],
)
def test_an_objects_total_and_cached_tokens_are_stored(more_usage: dict[str, int], right: dict[str, str]) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 50} | more_usage
    found = columns(parsed(input_tokens=None, output_tokens=None, total_tokens=None, provider_usage=usage))
    assert found == {"input_tokens": "100", "output_tokens": "50", "total_tokens": "150"} | right


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"event_id": ""}, "event_id: expected 1 to 200 characters, came 0"),
        ({"event_id": "x" * 201}, "event_id: expected 1 to 200 characters, came 201"),
        ({"event_id": "a\0"}, "event_id: expected no NUL character"),
        ({"event_id": None}, "event_id: expected a text, came null$"),
        ({"source": "x" * 201}, "source: expected 1 to 200 characters, came 201"),
        ({"source": "a\0"}, "source: expected no NUL character"),
        ({"usage": {"tokens": 1}}, "usage: expected units of the price package, came 'tokens'"),
        ({"usage": {"cache_read_tokens": "9"}}, "usage.cache_read_tokens: expected a number, came '9'"),
        ({"usage": {"cache_read_tokens": 101}}, "usage.cache_read_tokens: expected at most input_tokens = 100"),
        ({"usage": [1]}, r"usage: expected an object, came \[1\]$"),
        (
            {"usage": {"web_searches": 1}, "provider_usage": {"prompt_tokens": 1}},
            "usage, provider_usage: expected one of them, came both",
        ),
        ({"usage": {"input_tokens": 5}}, "input_tokens: expected the 5 that usage says, or none, came 100"),
        (
            {"provider_usage": {"prompt_tokens": 5, "completion_tokens": 20}},
            "input_tokens: expected the 5 that provider_usage says, or none, came 100",
        ),
        ({"provider_usage": {"tokens": 5}}, "provider_usage: expected the usage object of an API of openai"),
        ({"service_tier": "x" * 201}, "service_tier: expected 1 to 200 characters, came 201"),
        ({"service_tier": "a\0"}, "service_tier: expected no NUL character"),
        ({"api_key_id": "x" * 201}, "api_key_id: expected 1 to 200 characters, came 201"),
        ({"cost_usd": -1}, "cost_usd: expected 0 to 1000000000 US dollars, came '-1'"),
        ({"cost_usd": 1e10}, "cost_usd: expected 0 to"),
        ({"cost_usd": "NaN"}, "cost_usd: expected 0 to"),
        ({"cost_usd": "a"}, "cost_usd: expected a number or a decimal as text, came 'a'"),
        ({"cost_usd": " 1"}, "cost_usd: expected a number or a decimal as text"),
        ({"cost_usd": "1_0"}, "cost_usd: expected a number or a decimal as text"),
        ({"cost_usd": "0." + "1" * 41}, "cost_usd: expected at most 40 decimals"),
        ({"cost_usd": "9" * 101}, "cost_usd: expected a number or a decimal as text"),
        ({"cost_usd": True}, "cost_usd: expected a number or a decimal as text, came 'true'"),
        ({"cost_usd": [1]}, "cost_usd: expected a number or a decimal as text, came '\\[1\\]'"),
        ({"tags": {"a": 1}}, "Expected `str | null`, got `int`"),
        ({"tags": {"": "x"}}, "tags: expected names of 1 to 100 characters, came 0"),
        ({"tags": {"n" * 101: "x"}}, "tags: expected names of 1 to 100 characters, came 101"),
        ({"tags": {"a": "x" * 201}}, "tags: expected values of at most 200 characters, came 201"),
        ({"tags": {f"tag-{number}": "x" for number in range(21)}}, "tags: expected at most 20, came 21"),
        ({"tags": {"a": "\0"}}, "tags: expected no NUL character"),
        ({"total_tokens": 119}, r"at least input_tokens \+ output_tokens = 120, came 119\. Leave total_tokens out"),
    ],
)
def test_a_broken_rule_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parsed(**changes)


def test_the_last_value_before_a_limit_is_taken_in_the_widest_characters() -> None:
    widest = "\U00020000"
    names = [f"{number:02}{widest * 98}" for number in range(20)]
    for is_ascii in (True, False):
        whole = event(
            event_id=widest * 200,
            source=widest * 200,
            api_key_id=widest * 200,
            service_tier=widest * 200,
            tags=dict.fromkeys(names, widest * 200),
            cost_usd="0." + "1" * 40,
        )
        item = parse_event(json.dumps(whole, ensure_ascii=is_ascii).encode(), WINDOW, "a-token")
        assert columns(item)["external_id"] == widest * 200
        assert json.loads(columns(item)["tags"]) == whole["tags"]


def test_an_id_that_is_no_uuid_is_unique_for_its_source() -> None:
    """By the rule of the contract, from the standard library alone."""
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "urn:usage-pipeline:event")
    ours = parsed("a-token", event_id="chatcmpl-213")
    assert ours.event_id == uuid.uuid5(namespace, "a-token\0chatcmpl-213")
    assert columns(ours).items() >= {"source": "a-token", "external_id": "chatcmpl-213"}.items()
    assert parsed("a-token", event_id="chatcmpl-213", source="").event_id == ours.event_id
    theirs = parsed("a-token", event_id="chatcmpl-213", source="gateway-1")
    assert theirs.event_id == uuid.uuid5(namespace, "gateway-1\0chatcmpl-213")
    assert parsed("gateway-1", event_id="chatcmpl-213").event_id == theirs.event_id
    assert parse_event(as_items(event(event_id="chatcmpl-213"))[0], WINDOW).event_id == uuid.uuid5(
        namespace, "landing\0chatcmpl-213"
    )


@pytest.mark.parametrize("spelled", [str, lambda known: str(known).upper(), lambda known: known.hex])
def test_a_uuid_is_itself_whoever_sends_it_and_however_it_is_spelled(spelled: Any) -> None:
    known = uuid.uuid4()
    for source in (..., "gateway-1"):
        item = parsed(event_id=spelled(known), source=source)
        assert item.event_id == known
        assert "external_id" not in columns(item)


@pytest.mark.parametrize("text", ["{%s}", "urn:uuid:%s", "%s ", "x%s"])
def test_what_only_looks_like_a_uuid_is_a_text(text: str) -> None:
    spelled = text % uuid.uuid4()
    assert columns(parsed(event_id=spelled))["external_id"] == spelled


def test_the_hash_covers_what_was_sent_and_not_under_which_name() -> None:
    first = event(usage={"cache_read_tokens": 5})
    changes: list[dict[str, Any]] = [
        {"source": "gateway-1"},
        {"event_id": "an-id"},
        {"event_time": NOW.isoformat()},
        {"usage": {"cache_read_tokens": 5.0, "web_searches": 0}},
        {"tags": {"a": ""}, "service_tier": ""},
        {"usage": {"cache_read_tokens": 6}},
        {"usage": {"cache_write_tokens": 5}},
        {"usage": {"cache_read_tokens": 5, "web_searches": 1}},
        {"usage": None},
        {"tags": {"a": "1"}},
        {"service_tier": "batch"},
        {"api_key_id": "batch"},
        {"cost_usd": 1},
        {"total_tokens": 125},
    ]
    hashes = [parsed_as(first | change).payload_hash for change in ({}, *changes)]
    assert hashes[:6] == [hashes[0]] * 6
    assert len(set(hashes[5:])) == len(hashes[5:])


def test_an_event_without_new_members_has_the_hash_that_it_always_had() -> None:
    """A retry of an event that is stored since before must be a duplicate."""
    known = event(user_id="user-1", prompt="a\tb", extra={"b": 1}, error_type="x")
    assert parsed_as(known).payload_hash == "f2a03ab9e09d7162713a9da86e420019"


def parsed_as(members: dict[str, Any]) -> Item:
    return parse_event(as_items(members)[0], WINDOW, "a-token")


_SHORT = st.text(st.characters(codec="utf-8") | st.sampled_from("\\\t\n\r\0"), max_size=4)
_COUNTS = st.none() | st.integers(0, 12) | st.sampled_from([1.0, 0.5, "1", -1, 2**63])
_ROOTS = st.none() | st.integers(0, 40)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "event_id": st.uuids().map(str) | _SHORT,
            "usage": st.none()
            | st.dictionaries(
                st.sampled_from([*NAMED_UNITS, "web_searches", "input_tokens", "cache_audio_read_tokens", "nothing"]),
                _COUNTS,
                max_size=4,
            ),
            "input_tokens": _ROOTS,
            "output_tokens": _ROOTS,
            "total_tokens": _ROOTS,
            "user_id": _SHORT,
            "error_type": _SHORT,
            "source": st.none() | _SHORT,
            "service_tier": st.none() | _SHORT,
            "api_key_id": st.none() | _SHORT,
            "cost_usd": st.none() | st.integers(-1, 9) | st.floats(0, 9) | st.sampled_from(["0.10", "", "x", True]),
            "tags": st.none() | st.dictionaries(_SHORT, st.none() | _SHORT | st.just(1), max_size=3),
        },
    )
)
def test_the_fast_way_makes_the_row_that_the_rules_make_one_by_one(changes: dict[str, Any]) -> None:
    def outcome(parse: Any) -> Item | None:
        try:
            return parse(item, WINDOW, "a-token")
        except Malformed:
            return None

    item = as_items(event(**changes))[0]
    assert outcome(parse_event) == outcome(_parse_any_event)


@pytest.fixture
def store(postgres: psycopg.Connection, settings: Settings) -> Any:
    """Stores members as a batch of a token's, and returns its report."""

    def stored(*members: dict[str, Any], kind: Kind = EVENTS, sender: str = "a-token") -> IngestReport:
        return ingest(postgres, kind, as_items(*members), source="test", sender=sender, settings=settings, now=NOW)

    return stored


def full(**changes: Any) -> dict[str, Any]:
    """An event with all members."""
    return event(
        event_id=f"chatcmpl-{uuid.uuid4()}",
        usage={"cache_read_tokens": 9, "input_audio_tokens": 8, "audio_seconds": 12.5},
        total_tokens=121,
        service_tier="batch\t",
        cost_usd="0.0042",
        api_key_id="key\\1",
        tags={"project": "a\tb\\"},
        **changes,
    )


@pytest.mark.parametrize("is_new", [True, False], ids=["copied", "staged"])
def test_events_with_and_without_more_members_are_one_batch(
    is_new: bool, store: Any, postgres: psycopg.Connection
) -> None:
    plain, first, second = event(), full(), full(source="gateway-1")
    before = [plain] if not is_new else []
    store(event(), *before)
    report = store(plain, first, second)
    assert (report.inserted, report.duplicates) == (3 - len(before), len(before))
    again = store(first, plain, second | {"event_time": NOW.isoformat()})
    assert (again.inserted, again.duplicates, again.conflicts) == (0, 3, 0)
    rows = postgres.execute(
        f"select {', '.join(MORE)} from analytics.usage_events where event_id = any(%s)",
        ([parsed_as(one).event_id for one in (plain, first, second)],),
    ).fetchall()
    named = (9, None, None, 8, None, None, None, 1, {"audio_seconds": 12.5, "cache_audio_read_tokens": None})
    texts = ("batch\t", Decimal("0.0042"), "key\\1", {"project": "a\tb\\"})
    assert sorted(rows, key=str) == sorted(
        [
            (*named, *texts, "a-token", first["event_id"]),
            (*named, *texts, "gateway-1", second["event_id"]),
            (None,) * len(MORE),
        ],
        key=str,
    )


def test_a_conflict_keeps_who_gave_its_id(store: Any, postgres: psycopg.Connection) -> None:
    first, known = full(), event()
    store(first, known)
    assert store(first | {"cost_usd": 1}, known | {"cost_usd": 1}).conflicts == 2
    kept = postgres.execute("select event_id, other_payload from ops.event_conflicts").fetchall()
    for event_id, payload in kept:
        assert parse_event(bytes(payload), WINDOW).event_id == event_id
    sources = {json.loads(bytes(payload)).get("source") for _, payload in kept}
    assert sources == {"a-token", None}


def test_an_archive_is_of_the_event_with_its_id_and_source(store: Any, postgres: psycopg.Connection) -> None:
    known = full(source="gateway-1")
    store(known)
    sent = archive(known["event_id"])
    assert len(store(sent, kind=ARCHIVES).rejected) == 1
    assert store(sent | {"source": "gateway-1"}, kind=ARCHIVES).inserted == 1
    assert store(sent, kind=ARCHIVES, sender="gateway-1").duplicates == 1
    assert postgres.execute("select event_id from analytics.message_archives").fetchall() == [
        (parsed_as(known).event_id,)
    ]
