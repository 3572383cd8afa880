"""Tables of events as pandas, spreadsheets and databases write them, against what pandas itself says of them."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import psycopg
import pytest

from usage_pipeline.events.files import csv_rows
from usage_pipeline.events.files.loading import Loaded
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv, as_lines, as_parquet
from usage_pipeline_tests.rigs.events import NOW, event

Load = Callable[..., Loaded]


@pytest.fixture
def loaded(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> Load:
    def of(name: str, content: bytes, **options: Any) -> Loaded:
        (tmp_path / name).write_bytes(content)
        return load(postgres, settings, tmp_path / name, **options)

    return of


def stored(postgres: psycopg.Connection, columns: str) -> list[tuple[Any, ...]]:
    return postgres.execute(f"select {columns} from analytics.usage_events order by external_id").fetchall()


FRAME = pd.DataFrame(
    [
        event(event_id="a", output_tokens=5, latency_ms=None, error_type=None, user_id=7),
        event(event_id="b", output_tokens=None, latency_ms=350, error_type="overloaded", user_id=8),
    ]
).assign(event_time=pd.Timestamp(NOW) - pd.Timedelta("1h"))


@pytest.mark.parametrize(
    "content",
    [
        FRAME.to_csv().encode(),
        FRAME.to_csv(index=False, na_rep="NaN").encode(),
        pd.read_csv(io.StringIO(FRAME.to_csv())).to_csv(index=False).encode(),
        FRAME.astype(object).astype(str).to_csv(index=False, sep=";", lineterminator="\r\n").encode("utf-8-sig"),
        as_parquet(FRAME),
        as_parquet(FRAME.set_index("user_id", append=True).reset_index("user_id").iloc[::-1]),
    ],
    ids=["csv with an index", "NaN", "Unnamed: 0", "as text, as Excel", "parquet", "parquet with an index"],
)
def test_a_frame_of_pandas_with_gaps(content: bytes, loaded: Load, postgres: psycopg.Connection) -> None:
    """A gap makes a column one of floats: 5 becomes 5.0, and nothing becomes NaN."""
    done = loaded("a.parquet" if content.startswith(b"PAR1") else "a.csv", content)
    assert (done.reason, done.rejections, done.inserted) == (None, [], 2)
    columns = "external_id, user_id, output_tokens, latency_ms, error_type, total_tokens, event_time"
    at = FRAME["event_time"][0].to_pydatetime()
    assert stored(postgres, columns) == [
        ("a", "7", 5, None, None, 105, at),
        ("b", "8", None, 350, "overloaded", 100, at),
    ]


def test_a_time_without_a_zone_is_refused_as_everywhere(loaded: Load) -> None:
    naive = FRAME.assign(event_time=FRAME["event_time"].dt.tz_localize(None))
    for name, content in (("a.csv", naive.to_csv().encode()), ("a.parquet", as_parquet(naive))):
        done = loaded(name, content)
        assert done.rejected == 2
        assert "expected an ISO-8601 time with its offset" in done.rejections[0][1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(delimiter: str, loaded: Load, postgres: psycopg.Connection) -> None:
    text = f'two\r\nlines{delimiter} "quoted"'
    content = as_csv([event(event_id="a", prompt=text), event(event_id="b", service=" ünï ")], delimiter=delimiter)
    first = b"sep=;\r\n" if delimiter == ";" else b""
    done = loaded("a.csv", b"\xef\xbb\xbf" + first + content + delimiter.encode() * 11 + b"\r\n\r\n")
    assert (done.reason, done.rejections, done.inserted) == (None, [], 2)
    assert stored(postgres, "prompt, service") == [(text, "chat"), (None, " ünï ")]


def test_the_line_of_a_row_is_where_it_begins(loaded: Load) -> None:
    rows = [event(prompt="two\nlines"), event(team=""), event(prompt="a\nb\nc", user_id=""), event()]
    done = loaded("a.csv", as_csv(rows))
    assert [position for position, _ in done.rejections] == [4, 5]
    assert done.inserted == 2


def test_cells_of_members_that_hold_others(loaded: Load, postgres: psycopg.Connection) -> None:
    tags, usage, extra = {"project": "apollo", "n": "1"}, {"cache_read_tokens": 7}, {"a": [1, None]}
    rows = [
        event(event_id="a", tags=json.dumps(tags), usage=json.dumps(usage), extra=json.dumps(extra)),
        # As pandas writes a dictionary, and as its json_normalize makes columns.
        event(event_id="b", tags=str(tags), usage=str(usage), extra=str(extra)),
        event(
            event_id="c", **{"tags.project": "apollo", "tags.n": 1.0, "usage.cache_read_tokens": "7.0", "extra.a": "x"}
        ),
    ]
    assert loaded("a.csv", as_csv(rows)).rejections == []
    whole = stored(postgres, "tags, cache_read_tokens, extra")
    assert whole == [(tags, 7, extra), (tags, 7, extra), ({**tags, "n": "1.0"}, 7, {"a": "x"})]
    postgres.execute("truncate analytics.usage_events, analytics.usage_event_ids cascade")
    typed = [event(event_id="a", tags=tags, usage=usage, extra=extra), event(event_id="b", tags={"other": "x"})]
    assert loaded("a.parquet", as_parquet(typed)).rejections == []
    assert stored(postgres, "tags, cache_read_tokens, extra") == [(tags, 7, extra), ({"other": "x"}, None, None)]


def test_all_digits_of_a_cost_are_kept(loaded: Load, postgres: psycopg.Connection) -> None:
    cost = "0.1234567890123456789012345678"
    assert loaded("a.csv", as_csv([event(cost_usd=cost, input_tokens="00100")])).rejections == []
    assert [str(found) for (found,) in stored(postgres, "cost_usd")] == [cost]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_of_no_member_is_refused_before_anything_is_stored(name: str, loaded: Load) -> None:
    """Stored without it, `prompt_tokens` would be usage that nobody counts."""
    rows = [event(prompt_tokens=5, region="eu")]
    done = loaded(name, as_csv(rows) if name == "a.csv" else as_parquet(rows))
    assert (done.received, done.inserted) == (0, 0)
    assert "came 'prompt_tokens', 'region'. Nothing was stored" in str(done.reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\n1,2\n", "one of the formats events, litellm-spend-logs, openai-usage, langfuse, came those of none"),
        (b"event_time,request_id,startTime,spend\n", "came those of events and litellm-spend-logs"),
        (as_csv([{**event(), "extra.caf\xe9": 1}]).decode().encode("latin-1"), "line 1: expected UTF-8"),
        (as_csv([event()]).decode().encode("utf-16"), "line 1: expected UTF-8"),
        (b'event_id,"event_time\n' + b"x" * 100, "an open quote"),
        (b"event_id,event_time\nx,y,z\n", ""),
        (b"", ""),
        (b"ana@example.org,secret\n", "came those of none of them. Nothing was stored"),
    ],
)
def test_a_csv_file_that_cannot_be_read_says_why(content: bytes, reason: str, loaded: Load) -> None:
    done = loaded("a.csv", content)
    assert done.inserted == 0
    assert reason in str(done.reason or "")
    assert "caf" not in str(done.reason)
    assert "ana" not in str(done.reason), "the reason is kept, and an erasure does not look into it"
    if content.endswith(b"x,y,z\n"):
        assert done.rejections == [(2, "expected 2 cells, came 3: 'x,y,z'")]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_row_that_is_not_utf_8_is_rejected_with_its_line_and_costs_no_other(
    quoting: Literal[0, 1], tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    rows = [event(), event(service="caf\xe9"), event(), event(prompt="two\nlines \xe9"), event(service="Zo\u00eb")]
    content = as_csv(rows, quoting=quoting).decode()
    odd = content.encode().replace("\xe9".encode(), b"\xe9")
    (tmp_path / "a.csv").write_bytes(odd)
    landing = Landing(str(tmp_path))
    report = ingest_file(postgres, landing, "a.csv", settings=settings)
    assert (report.outcome, report.inserted, report.rejected) == ("stored", 3, 2)
    letters = postgres.execute("select position, reason, raw from ops.dead_letters order by position").fetchall()
    came = 'expected UTF-8 (in Excel: "CSV UTF-8"), came byte 0xe9'
    assert [letter[:2] for letter in letters] == [(3, came), (5, f"{came} in line 6")]
    assert rb"caf\\xe9" in bytes(letters[0][2])
    assert load(postgres, settings, tmp_path / "done" / "a.csv").duplicates == 3


def test_the_format_is_found_behind_lines_with_faults(loaded: Load) -> None:
    done = loaded("a.jsonl", b"nonsense\n" + as_lines([{"b": 1}, event()]))
    assert (done.row_format, done.inserted, [place for place, _ in done.rejections]) == ("events", 1, [1, 2])


def test_a_row_without_an_end_is_bounded(loaded: Load, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "max_decompressed_bytes", 2**16)
    head = as_csv([event()])
    done = loaded("a.csv", head + b'"' + b"x\n" * 2**20)
    assert done.inserted == 1
    assert "expected rows of at most 65536 bytes" in str(done.reason)
    done = loaded("b.csv", head + b"x" * 2**20)
    assert "expected rows of at most 65536 bytes" in str(done.reason)
    assert csv_rows.MOST_COLUMNS == 1_000
    assert "expected at most 1000 columns" in str(loaded("c.csv", b"a," * 1_000 + b"b\n").reason)


def test_two_columns_of_one_name_are_refused(loaded: Load) -> None:
    """The first would be lost: here 100 of 107 tokens."""
    head, row = as_csv([event(total_tokens=100, input_tokens=..., output_tokens=...)]).decode().splitlines()
    done = loaded("a.csv", f"{head}, total_tokens\n{row},7\n".encode())
    assert (done.received, "two of one name. Nothing was stored" in str(done.reason)) == (0, True)
    assert loaded("b.csv", f"{head},,\n{row},,\n".encode()).inserted == 1


@pytest.mark.parametrize("name", ["input_tokens", "latency_ms", "usage.cache_read_tokens"])
def test_a_thousand_or_one_is_refused_where_it_may_be_either(name: str, loaded: Load) -> None:
    counts = ("1.000", " 20.000 ", "1.0", "1000", "1.0000")
    rows = [event(**{"input_tokens": 2_000, name: count}, cost_usd="0.125") for count in counts]
    done = loaded("a.csv", as_csv(rows, delimiter=";"))
    assert (done.inserted, [place for place, _ in done.rejections]) == (3, [2, 3])
    assert done.rejections[0][1].startswith(f"{name}: expected a count without a dot")
    assert loaded("b.csv", as_csv(rows)).rejections == []


ROWS = 100_000


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    chance = np.random.default_rng(7)
    at = pd.Timestamp(NOW) - pd.to_timedelta(chance.integers(60, 86_400, ROWS), unit="s")
    return pd.DataFrame(
        {
            "event_id": [f"row-{number}" for number in range(ROWS)],
            "event_time": at,
            "user_id": chance.choice([f"user-{number}" for number in range(50)], ROWS),
            "team": chance.choice(["search", "ads", "core"], ROWS),
            "service": "chat",
            "provider": "openai",
            "model": chance.choice(["gpt-4o", "gpt-4o-mini"], ROWS),
            "input_tokens": chance.integers(1, 8_000, ROWS),
            "output_tokens": np.where(chance.random(ROWS) < 0.1, np.nan, chance.integers(0, 900, ROWS)),
            "status_code": np.where(chance.random(ROWS) < 0.03, 500, 200),
        }
    )


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_100_000_rows_are_counted_as_pandas_counts_them(
    name: str, frame: pd.DataFrame, loaded: Load, postgres: psycopg.Connection
) -> None:
    done = loaded(name, frame.to_csv(index=False).encode() if name == "a.csv" else as_parquet(frame))
    assert (done.reason, done.inserted, done.rejected) == (None, ROWS, 0)
    found = postgres.execute(
        """
        select team, model, count(*)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint,
               sum(total_tokens)::bigint, count(*) filter (where status_code = 500)::bigint, count(distinct user_id)::bigint
        from analytics.usage_events group by 1, 2 order by 1, 2
        """
    ).fetchall()
    left = frame["output_tokens"].fillna(0).astype(int)
    grouped = frame.assign(left=left, total=frame["input_tokens"] + left, failed=frame["status_code"] == 500).groupby(
        ["team", "model"]
    )
    expected = grouped.agg(
        rows=("event_id", "size"),
        entered=("input_tokens", "sum"),
        left=("left", "sum"),
        total=("total", "sum"),
        failed=("failed", "sum"),
        users=("user_id", "nunique"),
    )
    assert found == [tuple(row) for row in expected.reset_index().itertuples(index=False)]
