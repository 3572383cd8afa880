"""Files that are broken, or would become much larger than they are: refused with bounded memory; what was good is stored."""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from usage_pipeline.events.files.loading import Loaded
from usage_pipeline.events.files.parquet_reader import MOST_MEMORY_BYTES
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv, as_lines, as_parquet, zstd
from usage_pipeline_tests.rigs.commands import command_environment
from usage_pipeline_tests.rigs.events import event

MB = 2**20
# Python, the project and pyarrow have 150 MB of it.
MOST_RESIDENT_BYTES = 400 * MB
Load = Callable[[str, bytes], Loaded]


@pytest.fixture
def loaded(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> Load:
    def of(name: str, content: bytes) -> Loaded:
        (tmp_path / name).write_bytes(content)
        return load(postgres, settings, tmp_path / name)

    return of


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_what_is_before_the_cut_of_a_packed_file_is_stored(cut: int, loaded: Load) -> None:
    many = [event() for _ in range(2_000)]
    content = zstd(as_lines(many))
    done = loaded("a.jsonl.zst", content[:cut])
    assert "expected a whole Zstandard file, came one with a fault" in str(done.reason)
    assert done.rejected <= 1, "the line that was cut"
    if cut < 0:
        assert done.inserted > 1_000
    done = loaded("b.csv.gz", gzip.compress(as_csv(many))[:cut])
    assert "expected a whole gzip file, came one with a fault" in str(done.reason)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nonsense", b"PAR1" + b"\xff" * 100 + b"PAR1", b"\0" * 12])
def test_what_is_no_parquet_says_so(content: bytes, loaded: Load) -> None:
    assert "expected a whole Parquet file, came one with a fault" in str(loaded("a.parquet", content).reason)


def test_a_parquet_file_with_a_fault_inside_stores_what_is_before(loaded: Load) -> None:
    """Its pages are not where they were."""
    content = bytearray(as_parquet([event() for _ in range(20_000)], row_group_size=2_000, compression="zstd"))
    middle = len(content) // 2
    content[middle : middle + 4_000] = b"\xff" * 4_000
    done = loaded("a.parquet", bytes(content))
    assert "expected a whole Parquet file" in str(done.reason)
    assert 2_000 <= done.inserted < 20_000


def bomb_of_one_value() -> bytes:
    """A text of 600 MB, which is 20 KB as Zstandard."""
    column = pa.array([b"x" * (600 * MB)], pa.large_binary()).view(pa.large_string())
    return of_columns({"event_time": pa.array(["now"]), "prompt": column}, use_dictionary=False, write_statistics=False)


def bomb_of_references() -> bytes:
    """Each of 5,000 rows is the same text of 1 MB, of which the file has one."""
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), pa.array(["x" * MB]))
    columns = {"event_time": pa.array(["now"] * 5_000), "prompt": value}
    return of_columns(columns, dictionary_pagesize_limit=16 * MB, write_statistics=False)


def bomb_of_lists() -> bytes:
    """One row with ten million texts."""
    many = pa.DictionaryArray.from_arrays(pa.array(bytes(10_000_000), pa.int8()), pa.array(["x" * 100]))
    tags = pa.ListArray.from_arrays(pa.array([0, len(many)], pa.int32()), many)
    return of_columns({"event_time": pa.array(["now"]), "tags": tags})


def bomb_of_rows() -> bytes:
    """A million equal rows."""
    same = pa.DictionaryArray.from_arrays(pa.array(bytes(1_000_000), pa.int8()), pa.array(["x" * 1_000]))
    return of_columns({"event_time": same, "team": same, "user_id": same})


def of_columns(columns: dict[str, pa.Array], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd", **options)
    return file.getvalue()


LONG = b"x" * 1_000
BOMBS: dict[str, Callable[[], bytes]] = {
    "value.parquet": bomb_of_one_value,
    "references.parquet": bomb_of_references,
    "lists.parquet": bomb_of_lists,
    "rows.parquet": bomb_of_rows,
    "lines.jsonl.zst": lambda: zstd(b'{"event_time": 1, "x": "%b"}\n' % LONG * 200_000),
    "line.jsonl.zst": lambda: zstd(b'"' + b"x" * (200 * MB)),
    "rows.csv.zst": lambda: zstd(b"event_time,user_id\n" + b",%b\n" % LONG * 200_000),
    "row.csv.zst": lambda: zstd(b'event_time,user_id\n"' + b"x\n" * (100 * MB)),
    "document.json.zst": lambda: zstd(b"[" + b"1," * (100 * MB)),
    "zeros.parquet.zst": lambda: zstd(bytes(200 * MB)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_with_bounded_memory(name: str, tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    assert path.stat().st_size < MB // 2
    # The largest that it was since it began, which does not count what its parent had.
    measured = """
import json, resource, sys
from usage_pipeline.cli import main
try:
    main()
finally:
    of_reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print(json.dumps([int(line.split()[1]) * 1024, of_reader]), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", measured, "load", "events", str(path), "--json"],
        env=command_environment(settings) | {"MAX_GZIP_SIZE": str(MB)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    [file] = json.loads(done.stdout)["files"]
    assert file["fault"]
    assert file["stored"] == 0
    resident, of_reader = json.loads(done.stderr.splitlines()[-1])
    assert resident < MOST_RESIDENT_BYTES
    assert of_reader < MOST_MEMORY_BYTES + MOST_RESIDENT_BYTES
