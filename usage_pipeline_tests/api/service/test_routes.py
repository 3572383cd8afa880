"""What the service says about itself, and how it starts and stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.local.servers.ports import free_port, is_listening
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, expect_problem, new_token, serving
from usage_pipeline_tests.rigs.waiting import wait_until


def test_the_root_names_the_service_and_its_links_lead_somewhere(service: Service) -> None:
    about = service.client.get("/").json()
    assert about["name"] == "usage_pipeline"
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert {service.client.get(link).status_code for link in about["links"].values()} == {200, 401, 405}


def test_healthz_is_ok_when_all_parts_are_up(service: Service) -> None:
    response = service.client.get("/healthz")
    assert response.status_code == 200
    document = response.json()
    assert datetime.fromisoformat(document.pop("timestamp")).tzinfo
    without_dagster = {"scheduler": "off", "last_tick_age_seconds": None}
    of_redis = {"redis": "up", "redis_may_delete_counters": False}
    assert document == {"status": "ok", "database": "up", **of_redis, **without_dagster}


@pytest.mark.parametrize(
    ("age_seconds", "is_enabled", "status", "scheduler"),
    [(0, True, 200, "up"), (170, True, 200, "up"), (190, True, 503, "down"), (190, False, 200, "off")],
)
def test_healthz_tells_the_age_of_the_schedulers_last_tick_and_is_503_when_it_is_dead(
    settings: Settings,
    postgres: psycopg.Connection,
    age_seconds: int,
    is_enabled: bool,
    status: int,
    scheduler: str,
) -> None:
    beat = "insert into ops.heartbeats (name, beaten_at) values ('scheduler', now() - make_interval(secs => %s))"
    postgres.execute(beat, (age_seconds,))
    with serving(settings.model_copy(update={"enable_job_scheduler": is_enabled})) as service:
        response = service.client.get("/healthz")
    document = response.json()
    assert (response.status_code, document["scheduler"]) == (status, scheduler)
    assert document["status"] == ("ok" if status == 200 else "unavailable")
    assert (document["database"], document["redis"]) == ("up", "up")
    assert age_seconds <= document["last_tick_age_seconds"] < age_seconds + 9


def test_healthz_is_ok_with_a_schema_that_is_older_than_heartbeats(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    postgres.execute("drop table ops.heartbeats")
    with serving(settings) as service:
        response = service.client.get("/healthz")
    assert (response.status_code, response.json()["database"]) == (200, "up")


@pytest.mark.parametrize("part", ["database", "redis"])
@pytest.mark.parametrize("is_mute", [False, True])
def test_healthz_is_503_soon_when_a_part_is_down_or_mute(settings: Settings, part: str, is_mute: bool) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and never says a word
        port = mute.getsockname()[1] if is_mute else 1
        urls = {
            "database_url": settings.database_url.get_secret_value(),
            "redis_url": settings.redis_dsn.get_secret_value(),
        }
        scheme = "redis" if part == "redis" else "postgresql"
        urls[f"{part}_url"] = f"{scheme}://user:hunter2@127.0.0.1:{port}/0"
        with serving(load_settings(**urls)) as service:
            started = time.monotonic()
            response = service.client.get("/healthz")
            assert time.monotonic() - started < 60
    assert response.status_code == 503
    assert "hunter2" not in response.text
    document = response.json()
    assert document["status"] == "unavailable"
    assert {name: document[name] for name in ("database", "redis")} == {"database": "up", "redis": "up"} | {
        part: "down"
    }


def test_openapi_describes_bodies_limits_answers_and_problems(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    for path, member, known in (
        (EVENTS_PATH, "events", "event_time"),
        (EVENTS_PATH.replace("requests", "archives"), "archives", "prompt_full"),
    ):
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        array, wrapped, single = content["schema"]["anyOf"]
        assert known in array["items"]["properties"]
        assert array["items"]["additionalProperties"] is False
        assert wrapped["properties"][member]["items"] == array["items"] == single
        assert set(content["examples"]) >= {"array", "object", "single"}
        for named in ("MAX_BULK_SIZE", "MAX_GZIP_SIZE", "gzip", "20 times"):
            assert named in operation["requestBody"]["description"]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert {parameter["name"] for parameter in operation["parameters"]} == {"Content-Encoding"}
        assert set(operation["responses"]) == {"200", *["400", "401", "403", "408", "413", "415", "422", "500", "503"]}
        for status in set(operation["responses"]) - {"200"}:
            assert "application/problem+json" in operation["responses"][status]["content"]
    assert set(document["components"]["schemas"]["BulkReport"]["properties"]) == {
        "received",
        "inserted",
        "duplicates",
        "conflicts",
        "rejected",
    }
    text = json.dumps(document)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert references <= set(document["components"]["schemas"])


def test_the_examples_of_the_documentation_are_taken(service: Service, token: str) -> None:
    from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS
    from usage_pipeline.events.ingest.model import EventWindow, parse_archive, parse_event

    document = service.client.get("/openapi.json").json()
    for kind, parse in ((EVENTS, parse_event), (ARCHIVES, parse_archive)):
        path = EVENTS_PATH if kind is EVENTS else EVENTS_PATH.replace("requests", "archives")
        examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        [item] = examples["array"]["value"]
        assert examples["object"]["value"] == {kind.name: [item]}
        window = EventWindow.around(datetime.fromisoformat("2026-11-20T13:00:00Z"), Settings())
        parse(json.dumps(item).encode(), window)


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_dsn.get_secret_value(),
    }


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def api(
    environment: dict[str, str], request: Any, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    port = free_port()
    code = "from usage_pipeline.cli import main; main()"
    arguments = ["api", "--port", str(port), "--workers", str(request.param)]
    log = tmp_path / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stderr=output, start_new_session=True
        )
    try:
        wait_until(
            lambda: is_listening(port) and httpx.get(f"http://127.0.0.1:{port}/", timeout=30).status_code,
            "the service answers",
            60,
        )
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_sigterm_finishes_the_request_in_hand(
    api: tuple[subprocess.Popen[bytes], str, Path], token: str, postgres: psycopg.Connection, database_url: str
) -> None:
    from threading import Thread

    process, url, log = api
    answers: list[httpx.Response] = []

    def send() -> None:
        headers = {"Authorization": f"Bearer {token}"}
        answers.append(httpx.post(f"{url}{EVENTS_PATH}", json=[event()], headers=headers, timeout=60))

    httpx.get(f"{url}/api/usage/tokens", params={"token": token}, timeout=60)
    with psycopg.connect(database_url) as blocker:
        blocker.execute("lock table analytics.usage_event_ids")
        sending = Thread(target=send)
        sending.start()
        waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        wait_until(lambda: postgres.execute(waiting).fetchone(), "the request waits for the lock", 20)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down" in log.read_text(), "the service begins to stop", 20)
    sending.join(30)
    assert [answer.status_code for answer in answers] == [200]
    assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert token not in log.read_text()
    assert postgres.execute("select count(*) from analytics.usage_events").fetchone() == (1,)


def test_a_wrong_setting_is_one_line(run: Run) -> None:
    done = run("api", MAX_GZIP_SIZE="large")
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "MAX_GZIP_SIZE: " in line


def test_it_starts_while_postgresql_and_redis_are_away(postgres: psycopg.Connection) -> None:
    nowhere = load_settings(
        database_url="postgresql://u@127.0.0.1:1/x", redis_url="redis://127.0.0.1:1", connect_timeout_seconds=0.5
    )
    with serving(nowhere) as service:
        assert service.client.get("/healthz").status_code == 503
        assert service.client.get("/docs").status_code == 200
        response = service.with_token(new_token(postgres)).post(EVENTS_PATH, json=[])
        expect_problem(response, 503, "unavailable")
        assert response.headers["retry-after"]
