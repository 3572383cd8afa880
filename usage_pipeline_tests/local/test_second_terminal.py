"""The line that a second terminal pastes: a shell with nothing else has what `dev` has."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from usage_pipeline.local.second_terminal import line_to_paste, names_to_repeat, settings_to_repeat
from usage_pipeline.settings import load_settings

SEEN = "import json, os, sys; print(json.dumps([sys.prefix, dict(os.environ)]))"


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_any_shell_in_any_folder_takes_it_whatever_the_values_hold(shell: str, tmp_path: Path) -> None:
    values = {"LANDING_URL": '/my files/it\'s "here" $HOME', "OTLP_TEAM_ATTRIBUTES": "a;b c"}
    done = subprocess.run(
        [shell, "-c", f"{line_to_paste(values)}\ncommand -v usage-pipeline >&2 && python -c '{SEEN}'"],
        env={"PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    prefix, seen = json.loads(done.stdout)
    assert prefix == sys.prefix
    assert {name: seen[name] for name in values} == values


def test_outside_a_virtual_environment_nothing_is_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert line_to_paste({"LANDING_URL": "/my files/landing"}) == "export LANDING_URL='/my files/landing'"


def test_settings_are_repeated_as_they_were_given_and_secrets_are_named_only(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "DATABASE_URL": "postgresql://u:hunter2@h/d",
        "ALERT_URLS": "https://hunter2.example/",
        "ARCHIVE_URL": "s3://key:hunter2@bucket",
        "USAGE_TIMEZONE": "Europe/Vienna",
        "USAGE_START_DATE": "2026-01-01",
        "ENABLE_JOB_SCHEDULER": "false",
        "RETENTION_DAYS": "",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    repeated = settings_to_repeat(settings)
    assert set(repeated) == {"USAGE_TIMEZONE", "USAGE_START_DATE", "ENABLE_JOB_SCHEDULER"}
    assert "hunter2" not in str(repeated)
    assert names_to_repeat(settings) == ["ALERT_URLS", "ARCHIVE_URL", "DATABASE_URL"]
    for name, value in repeated.items():
        monkeypatch.setenv(name, value)
    again = load_settings()
    assert (again.usage_timezone, again.usage_start_date) == ("Europe/Vienna", date(2026, 1, 1))
    assert again.enable_job_scheduler is False
