"""`usage-pipeline prices`: what it prints and returns."""

import csv
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline_tests.rigs.commands import Run

PRICES = """provider;model;priced_as;factor;service_tier;valid_from;input_mtok
openai;gpt-4o;;;;;2.25
openai;*;;0.9;;2026-01-01;
azure;My-Team;openai/gpt-4o;;;;
"""


@pytest.fixture
def imported(run: Run, postgres: psycopg.Connection, tmp_path: Path) -> Path:
    path = tmp_path / "prices.csv"
    path.write_text(PRICES, encoding="utf-8-sig")
    done = run("prices", "import", str(path))
    assert done.returncode == 0, done.stderr
    assert f"{package_version()} + own 1" in " ".join(done.stdout.split())
    return path


def shown(run: Run, *arguments: str) -> Any:
    done = run("prices", "show", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


@pytest.mark.usefixtures("imported")
def test_show_says_which_layer_each_price_is_from(run: Run) -> None:
    status, told = shown(run, "openai", "openai/gpt-4o", "--at", "2026-11-01")
    assert status == 0
    assert (told["price_version"], told["understood_as"]) == (f"{package_version()} + own 1", "openai/gpt-4o")
    prices = {one["price_key"]: one for one in told["prices"]}
    assert (prices["input_mtok"]["usd"], prices["input_mtok"]["layer"]) == ("2.25", "own")
    assert (prices["output_mtok"]["usd"], prices["output_mtok"]["layer"]) == ("9.0", "package")
    assert prices["output_mtok"]["factor"] == "0.9 (own pattern openai/*)"
    assert told["own_rows"] == ["openai/gpt-4o", "openai/*, factor 0.9, from 2026-01-01T00:00:00Z"]
    _, before = shown(run, "openai", "gpt-4o", "--at", "2025-12-31T23:59:59Z")
    assert {one["price_key"]: one["usd"] for one in before["prices"]}["output_mtok"] == "10"
    _, alias = shown(run, "azure", "my-team")
    assert {one["layer"] for one in alias["prices"]} == {"package, as openai/gpt-4o"}
    _, tiers = shown(run, "google", "gemini-2.5-pro")
    assert [one["input_tokens_from"] for one in tiers["prices"] if one["price_key"] == "input_mtok"] == [0, 200_001]
    done = run("prices", "show", "openai", "gpt-4o-mini", "--tier", "batch")
    assert done.returncode == 0, done.stderr
    assert "0.0675" in done.stdout


@pytest.mark.usefixtures("imported")
def test_show_of_an_unknown_model_says_so_with_the_nearest_name(run: Run) -> None:
    status, told = shown(run, "openai", "gpt4-o-turbo")
    assert (status, told["is_priced"], told["prices"]) == (1, False, [])
    done = run("prices", "show", "openai", "gpt4o")
    assert done.returncode == 1
    assert "unknown model; the nearest one is openai/gpt-4o" in done.stderr


def test_what_is_exported_can_be_imported_again(run: Run, imported: Path, tmp_path: Path) -> None:
    exported = tmp_path / "export.csv"
    assert run("prices", "export", str(exported)).returncode == 0
    assert exported.read_text() == run("prices", "export").stdout
    with exported.open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"gpt-4o", "*", "my-team"}
    again = json.loads(run("prices", "import", str(exported), "--replace-all", "--json").stdout)
    assert (again["version"], again["added"], again["changed"], again["removed"]) == (1, 0, 0, 0)
    lines = exported.read_text().splitlines()
    exported.write_text("\n".join(line for line in lines if "my-team" not in line))
    less = json.loads(run("prices", "import", str(exported), "--replace-all", "--json").stdout)
    assert (less["version"], less["rows"], less["removed"]) == (2, 2, 1)
    listed = json.loads(run("prices", "list", "--json").stdout)
    assert [row["model"] for row in listed["prices"]] == ["*", "gpt-4o"]
    assert "gpt-4o" in run("prices", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("import", "/none.csv"), "expected a CSV file"),
        (("show", "openai", "gpt-4o", "--at", "noon"), "--at: expected a date"),
        (("export", "/none/prices.csv"), "expected a file that can be written"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_status_2(
    run: Run, postgres: psycopg.Connection, arguments: tuple[str, ...], told: str
) -> None:
    done = run("prices", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_without_rows_takes_nothing_away_by_itself(run: Run, imported: Path) -> None:
    imported.write_text("provider,model,factor\n")
    done = run("prices", "import", str(imported))
    assert done.returncode == 2
    assert "--replace-all" in done.stderr
    assert run("prices", "import", str(imported), "--replace-all").returncode == 0
    assert json.loads(run("prices", "list", "--json").stdout)["prices"] == []
