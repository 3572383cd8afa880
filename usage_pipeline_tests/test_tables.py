"""Tables of commands in a narrow terminal: numbers and ids stay whole, nothing is cut, and no line is too long for it."""

from datetime import datetime, timedelta, timezone

import pytest

from usage_pipeline.commands.output import print_table

COLUMNS = ["number", "id", "factor", "tokens", "reason"]
REASON = "total_requests: expected an integer of 0 or more, came some text, as the writer has it"
ROWS = [(1, "a" * 16, None, 1_234_567, REASON), (2, "b" * 16, None, None, "no")]


def printed(capsys: pytest.CaptureFixture[str], rows: list[tuple[object, ...]]) -> list[str]:
    print_table("2 items", COLUMNS, rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [70, 80, 120])
def test_texts_are_wrapped_between_words_and_empty_columns_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = printed(capsys, ROWS)
    assert (lines[0], max(map(len, lines)) <= width) == ("2 items", True)
    said = "\n".join(lines)
    assert [whole for whole in ("a" * 16, "b" * 16, "1,234,567", "total_requests:") if whole not in said] == []
    assert "factor" not in said
    cells = " ".join(line.split("│")[-2].strip() for line in lines if line.startswith("│"))
    assert cells == f"{REASON} no"


def test_what_does_not_fit_is_a_block_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "c" * 200
    lines = printed(capsys, [(1, long, None, 7, REASON), (2, "b", None, 8, "no")])
    assert lines == [
        "2 items",
        *("number  1", f"id      {long}", "tokens  7", f"reason  {REASON}", ""),
        *("number  2", "id      b", "tokens  8", "reason  no"),
    ]


def test_a_time_is_in_utc_and_whole_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 11, 29, 18, 46, 13, 696364, tzinfo=timezone(timedelta(hours=1)))
    print_table("1 item", ["at"], [(at,)])
    assert "│ 2026-11-29 17:46:13Z │" in capsys.readouterr().out


def test_a_file_has_no_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert any(REASON in line and "a" * 16 in line for line in printed(capsys, ROWS))
