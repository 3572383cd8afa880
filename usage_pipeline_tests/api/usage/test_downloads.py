"""Listings as CSV and Parquet: all rows, exact, streamed; and cut where they cannot be completed."""

import csv
import io
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg_pool import ConnectionPool

from usage_pipeline.api.usage import downloads
from usage_pipeline.api.usage import reading as usage_reading
from usage_pipeline.api.usage.reading import Export, rows_of
from usage_pipeline.api.usage.resources import API_KEYS, MODELS, RESOURCES
from usage_pipeline.exports.encodings import CsvEncoding, ParquetEncoding
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.service import Shared, expect_problem, new_token
from usage_pipeline_tests.rigs.waiting import wait_until

MANY = 23_000
# OWASP's list of beginnings that a spreadsheet computes, the full-width ones too; a space before one changes nothing.
FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", " =1", "'=1"]
HOSTILE = [*FORMULAS, 'quo"te', "a,b", "two\r\nlines", "日本", "'a"]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def _usage(shared: Shared) -> None:
    insert = "insert into usage.api_keys (api_key_id, total_requests, last_used_at) values (%s, %s, %s)"
    with shared.postgres.cursor() as cursor:
        cursor.executemany(insert, [(one, 2**53 + number, NOW) for number, one in enumerate(HOSTILE)])
        cursor.execute(
            "insert into usage.api_keys (api_key_id) select 'key-' || n from generate_series(1, %s) as n", (MANY,)
        )
        cursor.execute(
            "insert into analytics.usage_daily (usage_date, team, service, provider, model, requests, errors, input_tokens,"
            " output_tokens, total_tokens, distinct_users, cost_usd, unpriced_requests, other_units) values"
            " (%(day)s, 't', 's', 'p', 'm', 9223372036854775807, 1, 2, 3, 5, 1, 123456789.123456789012345678, 0,"
            """ '{"audio_seconds": 12.5, "web_searches": 3}'),"""
            " (%(day)s, 't', 's', 'p', 'unpriced', 1, 1, 2, 3, 5, 1, null, 1, null)",
            {"day": today()},
        )


def test_csv_has_all_rows_and_every_value(shared: Shared) -> None:
    response = shared.client.get("/api/usage/api-keys?format=csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert response.headers["content-disposition"] == 'attachment; filename="usage-api-keys.csv"'
    assert "content-length" not in response.headers
    header, *found = list(csv.reader(io.StringIO(response.content.decode(), newline="")))
    assert header == [column.shown_name for column in API_KEYS.totals.columns]
    assert response.content.count(b"\r\n") >= len(found)
    by_id = {row[0]: row for row in found}
    assert len(by_id) == len(found) == MANY + len(HOSTILE)
    for number, known_id in enumerate(HOSTILE):
        shown = f"'{known_id}" if known_id in FORMULAS else known_id
        assert by_id[shown][1] == str(2**53 + number)
        assert by_id[shown][-1] == "2026-01-02T03:04:05.678901Z"
    assert by_id["key-1"][-1] == ""


def test_parquet_has_exact_types_and_values(shared: Shared) -> None:
    response = shared.client.get(f"/api/usage/models/daily?format=parquet&from={today()}&to={today()}")
    assert response.headers["content-type"] == "application/vnd.apache.parquet", response.text
    assert (
        response.headers["content-disposition"]
        == f'attachment; filename="usage-models-daily-{today()}-{today()}.parquet"'
    )
    table = pq.read_table(io.BytesIO(response.content))
    types = {"day": pa.date32(), "text": pa.string(), "count": pa.int64(), "money": pa.decimal128(38, 18)}
    types["units"] = pa.string()
    assert table.schema.types == [types[column.kind] for column in MODELS.daily.columns]
    first, second = table.to_pylist()
    assert first["usageDate"] == today()
    assert first["requests"] == 2**63 - 1
    assert first["costUsd"] == Decimal("123456789.123456789012345678")
    assert second["costUsd"] is None
    assert json.loads(first["otherUnits"]) == {"audio_seconds": 12.5, "web_searches": 3}
    assert second["otherUnits"] == "{}"
    assert pq.ParquetFile(io.BytesIO(response.content)).metadata.row_group(0).column(0).compression == "ZSTD"


def test_units_without_a_column_are_json_in_a_cell(shared: Shared) -> None:
    content = shared.client.get("/api/usage/models?format=csv").content.decode()
    found = {row["model"]: json.loads(row["otherUnits"]) for row in csv.DictReader(io.StringIO(content, newline=""))}
    assert found == {"m": {"audio_seconds": 12.5, "web_searches": 3}, "unpriced": {}}


def test_both_files_hold_the_rows_of_the_pages(shared: Shared) -> None:
    whole = shared.client.get("/api/usage/api-keys?format=parquet").content
    file = pq.ParquetFile(io.BytesIO(whole))
    assert file.metadata.num_row_groups == -(-file.metadata.num_rows // usage_reading.ROWS_PER_CHUNK)
    assert file.schema_arrow.field("lastUsedAt").type == pa.timestamp("us", tz="UTC")
    keys = file.read().column("apiKeyId").to_pylist()
    assert len(keys) == MANY + len(HOSTILE)
    assert set(HOSTILE) <= set(keys)
    page = shared.client.get("/api/usage/api-keys?limit=1000").json()["items"]
    assert keys[:1000] == [item["apiKeyId"] for item in page]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_filters_hold_for_files_and_nothing_found_is_a_file_without_rows(shared: Shared, format: str) -> None:
    one, none = (
        shared.client.get("/api/usage/api-keys", params={"format": format, "api_key_id": known_id}).content
        for known_id in ("key-7", "nobody")
    )
    if format == "csv":
        assert [content.decode().count("\r\n") for content in (one, none)] == [2, 1]
    else:
        assert [pq.read_table(io.BytesIO(content)).num_rows for content in (one, none)] == [1, 0]


@pytest.mark.parametrize("resource", [resource.name for resource in RESOURCES])
@pytest.mark.parametrize("path", ["", "/daily"])
def test_every_listing_is_a_file_too(shared: Shared, resource: str, path: str) -> None:
    rows = list(csv.reader(io.StringIO(shared.client.get(f"/api/usage/{resource}{path}?format=csv").text)))
    content = shared.client.get(f"/api/usage/{resource}{path}?format=parquet").content
    assert pq.read_table(io.BytesIO(content)).column_names == rows[0]


def test_more_rows_than_a_file_takes_are_told_before_the_first_byte(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_reading, "MAX_EXPORT_ROWS", MANY)
    response = shared.client.get("/api/usage/api-keys?format=csv")
    assert "Ask for fewer days or one id" in expect_problem(response, 422, "too-many-rows")


def test_rows_are_read_in_chunks_of_one_moment(shared: Shared, database: Callable[[], ConnectionPool]) -> None:
    rows = rows_of(API_KEYS.totals, {"api_key_id": None, "after_api_key_id": None}, None)
    with closing(Export(pool := database(), rows)) as export:
        export.open()
        sizes = [len(export.chunk())]
        shared.postgres.execute("insert into usage.api_keys (api_key_id) values ('zzz-later')")
        while chunk := export.chunk():
            sizes.append(len(chunk))
    shared.postgres.execute("delete from usage.api_keys where api_key_id = 'zzz-later'")
    assert max(sizes) == usage_reading.ROWS_PER_CHUNK
    assert sum(sizes) == MANY + len(HOSTILE)
    assert pool.get_stats()["pool_available"] == 1


@pytest.fixture
def database(shared: Shared) -> Iterator[Callable[[], ConnectionPool]]:
    url = shared.settings.database_url.get_secret_value()
    with ConnectionPool(url, min_size=1, max_size=1, kwargs={"autocommit": True}) as pool:
        yield lambda: pool


@pytest.mark.parametrize("encoding", [CsvEncoding, ParquetEncoding])
def test_an_encoding_keeps_nothing_of_what_it_gave(encoding: type[Any]) -> None:
    import tracemalloc

    columns = API_KEYS.totals.columns
    # Ids that no compression makes small: a kept chunk would be seen.
    chunk = [(secrets.token_hex(64), 1, 1, 0, 5, 1, NOW) for _ in range(1_500)]

    def peak(chunks: int) -> int:
        made = encoding(columns)
        tracemalloc.start()
        given = sum(len(made.rows(chunk)) for _ in range(chunks)) + len(made.end())
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert given > chunks * 50_000
        return highest

    encoding(columns).rows(chunk)  # what a library loads at its first use is not counted
    assert peak(24) < 2 * peak(3)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_file_that_fails_on_its_way_is_cut_and_its_connection_is_free_again(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    chunks: list[int] = []
    whole = Export.chunk

    def failing(self: Export) -> Any:
        chunks.append(1)
        if len(chunks) == 3:
            raise psycopg.OperationalError("the server closed the connection")
        return whole(self)

    monkeypatch.setattr(Export, "chunk", failing)
    with pytest.raises(httpx.RemoteProtocolError):
        shared.client.get(f"/api/usage/api-keys?format={format}")
    monkeypatch.undo()
    assert shared.client.get(f"/api/usage/api-keys?format={format}").status_code == 200


def test_a_file_too_many_is_503_and_the_places_are_free_when_the_readers_are_gone(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    whole = Export.chunk

    def waiting(self: Export) -> Any:
        gate.wait(120)
        return whole(self)

    monkeypatch.setattr(Export, "chunk", waiting)
    path = "/api/usage/api-keys?format=csv"
    third = {"Authorization": f"Bearer {new_token(shared.postgres, 'read')}"}
    other = {"Authorization": f"Bearer {new_token(shared.postgres, 'read')}"}
    readers = [
        threading.Thread(target=lambda headers=headers: shared.service.client.get(path, headers=headers))
        for headers in ({}, other)
    ]
    for reader in readers:
        reader.start()
    sleeping = (
        "select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()"
    )
    try:
        wait_until(lambda: shared.postgres.execute(sleeping).fetchone() == (2,), "two files are being sent", 60)
        for headers, text in (
            ({}, "1 downloads of this token are running, 2 of all"),
            (third, "0 downloads of this token"),
        ):
            response = shared.client.get(path, headers=headers)
            assert text in expect_problem(response, 503, "unavailable")
            assert response.headers["retry-after"]
        # Pages go on meanwhile.
        assert shared.client.get("/api/usage/api-keys").status_code == 200
    finally:
        gate.set()
    for reader in readers:
        reader.join(60)
    wait_until(lambda: shared.postgres.execute(sleeping).fetchone() == (0,), "both files are sent", 60)
    assert shared.client.get(path).status_code == 200


def test_a_reader_who_goes_away_leaves_no_connection_behind(shared: Shared) -> None:
    for _ in range(4):  # more than there are places
        with shared.client.stream("GET", "/api/usage/api-keys?format=csv") as response:
            assert response.status_code == 200
    sleeping = "select count(*) from pg_stat_activity where state like 'idle in%%' and datname = current_database()"
    wait_until(
        lambda: shared.postgres.execute(sleeping.replace("%%", "%")).fetchone() == (0,), "no connection is in use", 20
    )
    assert shared.client.get("/api/usage/api-keys?format=csv").status_code == 200


def test_a_reader_who_reads_too_slowly_is_cut(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 0.5)
    whole = Export.chunk
    monkeypatch.setattr(Export, "chunk", lambda self: (threading.Event().wait(0.3), whole(self))[1])
    with pytest.raises(httpx.RemoteProtocolError):
        shared.client.get("/api/usage/api-keys?format=csv")


def test_dates_in_a_file_name_are_the_range(shared: Shared) -> None:
    first = days_ago(29)
    disposition = shared.client.get("/api/usage/tokens/daily?format=csv").headers["content-disposition"]
    assert disposition == f'attachment; filename="usage-tokens-daily-{first}-{today()}.csv"'
    assert date.fromisoformat(str(first)) < today()
