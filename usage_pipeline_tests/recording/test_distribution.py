"""The distribution `usage-recorder`: what it needs, what its import costs, and that the pipeline knows the keys it writes."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import redis
from usage_recorder import keys

from usage_pipeline.settings import SettingsError, load_settings
from usage_pipeline_tests.rigs.places import PROJECT

DISTRIBUTION = PROJECT / "clients" / "python"
UV = PROJECT / ".local" / "uv" / "bin" / "uv"
RECORD = """
import sys
from usage_recorder import Recorder
recorder = Recorder.connect(sys.argv[1], timeout_seconds=20)
assert recorder.record_api_key("key-1", file_size=5)
assert recorder.record_event("key-1", user_id="user-1", provider="s3", event_type="upload")
assert recorder.pending("key-1")["total_requests"] == 1
recorder.close()
print(sorted(name for name in sys.modules if name.startswith(("usage_pipeline", "pydantic", "msgspec", "hiredis"))))
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=DISTRIBUTION)
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout


@pytest.mark.parametrize("wanted", [(), ("redis==6.4.0",)], ids=["newest redis-py", "oldest redis-py"])
@pytest.mark.skipif(not UV.exists(), reason="make setup installs uv")
def test_the_wheel_records_in_an_environment_with_redis_alone(
    wanted: tuple[str, ...], tmp_path: Path, redis_client: redis.Redis, redis_url: str
) -> None:
    run(UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "venv", "--no-project", "--python", sys.executable, python.parents[1])
    run(UV, "pip", "install", "--python", python, wheel, *wanted)
    installed = run(UV, "pip", "list", "--python", python, "--format", "freeze").split()
    assert sorted(line.partition("==")[0] for line in installed) in (
        ["redis", "usage-recorder"],
        ["async-timeout", "redis", "usage-recorder"],  # of redis itself, for Python before 3.11.3
    )
    assert run(python, "-I", "-c", RECORD, redis_url).strip() == "[]"
    assert redis_client.llen(keys.EVENT_QUEUE) == 1


def test_it_asks_for_redis_alone_and_for_python_3_9() -> None:
    project = tomllib.loads((DISTRIBUTION / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [name for name in project["dependencies"] if not name.startswith("redis>=")] == []
    assert project["requires-python"] == ">=3.9"


def imported_by(statement: str) -> set[str]:
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*sorted(set(sys.modules) - before))"
    return set(run(sys.executable, "-c", code).split())


def test_its_import_waits_for_nothing_and_its_classes_for_little_more_than_redis() -> None:
    assert not {name.partition(".")[0] for name in imported_by("import usage_recorder")} & {"redis", "asyncio", "json"}
    beside_redis = imported_by("import usage_recorder.recorder") - imported_by("import redis")
    foreign = {name for name in beside_redis if not name.startswith("usage_recorder")}
    assert len(foreign) <= 10, sorted(foreign)
    assert "usage_recorder.async_recorder" not in beside_redis


@pytest.mark.skipif(not UV.exists(), reason="make setup installs uv")
def test_its_code_and_types_are_those_of_python_3_9() -> None:
    # The newest mypy that still knows 3.9, and a redis-py that still runs on it.
    mypy = (
        "mypy==1.18.2",
        "--strict",
        "--python-version",
        "3.9",
        "--config-file",
        "",
        "--untyped-calls-exclude",
        "redis",
    )
    run(UV, "tool", "run", "--python", sys.executable, "--with", "redis==6.4.0", *mypy, "usage_recorder")


def test_a_recorder_whose_keys_the_drain_cannot_read_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings()
    monkeypatch.setattr(keys, "KEY_LAYOUT", 99)
    with pytest.raises(SettingsError, match="usage-recorder: expected the package with key layout 1, came one with 99"):
        load_settings()
