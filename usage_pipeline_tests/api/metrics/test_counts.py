"""`/metrics`: what it counts is what was done, nobody outside makes series, and it stands while a server is down."""

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from usage_recorder.recorder import Recorder

from usage_pipeline.api.metrics import exposition
from usage_pipeline.api.metrics import pipeline as pipeline_metrics
from usage_pipeline.drain.dead_letters import Choice
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.ways_out.discard import Decision, discard
from usage_pipeline.local.servers.ports import free_port, is_listening
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.places import DOCS
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, serving
from usage_pipeline_tests.rigs.waiting import wait_until

Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(autouse=True)
def _readings_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "TEXT_SECONDS", 0.0)
    monkeypatch.setattr(pipeline_metrics, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(pipeline_metrics, "INSTANCES_KEPT_SECONDS", 0.0)


class Scrape:
    """One scrape, parsed as Prometheus does."""

    def __init__(self, client: httpx.Client, url: str = "/metrics") -> None:
        response = client.get(url)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.text = response.text
        self.families = {family.name: family for family in text_string_to_metric_families(response.text)}
        self.samples: dict[Sample, float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"usage_pipeline_{name}", frozenset(labels.items())))


def test_requests_are_counted_by_template_method_and_class_of_status(service: Service) -> None:
    client = service.client
    for _ in range(3):
        client.get("/")
    client.post("/")
    client.post(EVENTS_PATH, json=[])
    client.request("PROPFIND", "/")
    for post_id in ("x", "0", "-1"):
        client.get(f"/api/external/posts/{post_id}")
    scrape = Scrape(client)
    assert scrape.value("http_requests_total", route="/", method="GET", status="2xx") == 3
    assert scrape.value("http_requests_total", route="/", method="POST", status="4xx") == 1
    assert scrape.value("http_requests_total", route="/", method="other", status="4xx") == 1
    assert scrape.value("http_requests_total", route=EVENTS_PATH, method="POST", status="4xx") == 1
    assert scrape.value("http_requests_total", route="/api/external/posts/{id}", method="GET", status="4xx") == 3
    assert scrape.value("http_request_duration_seconds_count", route="/") == 5
    assert scrape.value("http_request_duration_seconds_bucket", route="/", le="+Inf") == 5
    took = scrape.value("http_request_duration_seconds_sum", route="/")
    assert took is not None
    assert 0 < took < 60
    # The scrape itself is in hand while it is written.
    assert scrape.value("http_requests_in_progress") == 1
    assert Scrape(client).value("http_requests_total", route="/metrics", method="GET", status="2xx") == 1


def test_names_and_units_are_those_of_prometheus(service: Service) -> None:
    for name, family in Scrape(service.client).families.items():
        assert re.fullmatch(r"usage_pipeline_[a-z_]+[a-z]", name)
        assert len(family.documentation) > 20, name
        assert not re.search(r"_(ms|millis|minutes|total|created|count|sum|bucket)$", name), name
        if family.type == "counter":
            assert {sample.name for sample in family.samples} <= {f"{name}_total"}


def test_the_page_names_every_metric_and_no_other(service: Service, settings: Settings, redis_url: str) -> None:
    recorder = Recorder.connect(redis_url)
    assert recorder.record_token("t", "i")
    recorder.close()
    drain_once(settings, ["token"])
    page = (DOCS / "http.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(usage_pipeline_[a-z_]+)`", page))
    families = Scrape(service.client).families.values()
    assert named == {family.name + ("_total" if family.type == "counter" else "") for family in families}


def test_random_paths_methods_and_tokens_make_no_series(service: Service) -> None:
    client = service.client

    def knock() -> None:
        word = secrets.token_hex(8)
        assert client.get(f"/{word}", headers={"Authorization": f"Bearer {word}"}).status_code == 404
        assert client.request(secrets.choice(["PROPFIND", "LOCK", "PURGE", "TRACE"]), "/").status_code == 405
        assert client.get(f"/api/external/posts/{word}").status_code == 422
        token = f"upt_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
        assert client.post(EVENTS_PATH, json=[], headers={"Authorization": f"Bearer {token}"}).status_code == 401

    knock()
    Scrape(client)
    before = Scrape(client).samples
    for _ in range(200):
        knock()
    after = Scrape(client)
    assert set(after.samples) == set(before)
    assert after.value("http_requests_total", route="unmatched", method="GET", status="4xx") == 201
    assert after.value("http_requests_total", route=EVENTS_PATH, method="POST", status="4xx") == 201


def test_no_secret_is_in_the_text(service: Service, token: str, settings: Settings) -> None:
    with_token = service.with_token(token)
    with_token.post(EVENTS_PATH, json=[event()])
    text = Scrape(with_token).text
    for secret in (token, token.rpartition("_")[0], settings.database_url.get_secret_value(), "postgresql://"):
        assert secret not in text


def test_ingested_items_are_counted_by_what_became_of_them(ingest_client: httpx.Client) -> None:
    first = event()
    ingest_client.post(EVENTS_PATH, json=[first, event(), event(user_id="")])
    ingest_client.post(EVENTS_PATH, json=[first])
    scrape = Scrape(ingest_client)
    outcomes = {"inserted": 2, "duplicates": 1, "conflicts": 0, "rejected": 1}
    for outcome, items in outcomes.items():
        assert scrape.value("http_ingested_items_total", kind="events", outcome=outcome) == items
        rate = scrape.value("ingest_items_per_second", kind="events", outcome=outcome)
        assert rate == pytest.approx(items / 300)
        assert scrape.value("ingest_items_per_second", kind="archives", outcome=outcome) == 0


def test_uses_of_tokens_that_wait_for_redis_are_shown(settings: Settings, token: str) -> None:
    without_redis = settings.model_copy(update={"redis_url": type(settings.database_url)("redis://127.0.0.1:1")})
    with serving(without_redis) as service:
        assert service.with_token(token).post(EVENTS_PATH, json=[event()]).status_code == 200
        scrape = Scrape(service.client)
    assert scrape.value("recorder_kept") == 1
    assert scrape.value("recorder_failures_total", what="token", reason="no room") is None
    assert scrape.value("up", part="redis") == 0
    assert scrape.value("up", part="database") == 1
    assert scrape.value("backlog_open_batches", family="token") is None
    assert scrape.value("dead_letters_open", family="token") == 0


def test_without_a_database_its_readings_vanish_and_the_rest_stays() -> None:
    with serving(
        load_settings(database_url="postgresql://user:hunter2@127.0.0.1:1/x", redis_url="redis://127.0.0.1:1")
    ) as service:
        service.client.get("/")
        scrape = Scrape(service.client)
    assert scrape.value("up", part="database") == scrape.value("up", part="redis") == 0
    assert scrape.value("http_requests_total", route="/", method="GET", status="2xx") == 1
    assert not {name for name in scrape.families if "drain" in name or "backlog" in name or "instance" in name}
    assert "hunter2" not in scrape.text


def test_what_waits_what_is_drained_and_what_was_refused(
    service: Service, settings: Settings, redis_client: redis.Redis, redis_url: str, postgres: psycopg.Connection
) -> None:
    recorder = Recorder.connect(redis_url)
    for number in range(7):
        assert recorder.record_api_key(f"key-{number}")
    assert recorder.record_event("key-1", user_id="u", provider="s3", event_type="upload", file_size=1)
    recorder.close()
    claimed_at = int((datetime.now(UTC) - timedelta(seconds=100)).timestamp() * 1000)
    redis_client.hset("usage_pipeline:open:token", f"{claimed_at}-{secrets.token_hex(8)}", "server")
    waiting = Scrape(service.client)
    found = {family: waiting.value("backlog_announced_keys", family=family) for family in ("api_key", "event", "token")}
    assert found == {"api_key": 7, "event": 1, "token": 0}
    assert waiting.value("backlog_open_batches", family="token") == 1
    age = waiting.value("backlog_oldest_batch_age_seconds", family="token")
    assert age is not None
    assert 100 <= age < 200
    assert waiting.value("drain_last_batch_age_seconds", family="api_key") is None
    assert waiting.value("drain_keys_per_second", family="api_key") == 0

    redis_client.hset("apikey:broken:metrics", "total_requests", "many")
    redis_client.sadd("usage_pipeline:touched:api_key", "apikey:broken:metrics")
    drain_once(settings, ["api_key", "event"])
    drained = Scrape(service.client)
    assert drained.value("backlog_announced_keys", family="api_key") == 0
    assert drained.value("drain_keys_per_second", family="api_key") == pytest.approx(8 / 300)
    assert drained.value("drain_batches_per_second", family="api_key") == pytest.approx(1 / 300)
    assert drained.value("drain_keys_per_second", family="event") == pytest.approx(1 / 300)
    assert drained.value("dead_letters_open", family="api_key") == 1
    assert drained.value("dead_letters_discarded", family="api_key") == 0
    since = drained.value("drain_last_batch_age_seconds", family="api_key")
    assert since is not None
    assert 0 <= since < 60
    lag = drained.value("drain_longest_lag_seconds", family="api_key")
    assert lag is not None
    assert 0 < lag < 60

    discard(postgres, Choice(families=["api_key"]), Decision("a test", "somebody@host"))
    decided = Scrape(service.client)
    assert decided.value("dead_letters_open", family="api_key") == 0
    assert decided.value("dead_letters_discarded", family="api_key") == 1


def test_the_spread_over_instances_has_labels_for_the_ten_busiest_only(
    service: Service, settings: Settings, redis_url: str, postgres: psycopg.Connection
) -> None:
    empty = Scrape(service.client)
    assert empty.value("token_instances") == 0
    assert empty.value("token_busiest_instance_ratio") is None
    recorder = Recorder.connect(redis_url)
    for number in range(1, 14):
        for token_id in ("a", "b"):
            assert recorder.record_token(token_id, f'api-{number:02}:80"\\', count=number)
    recorder.close()
    drain_once(settings, ["token"])
    # Last week is another story.
    last_week = (datetime.now(UTC) - timedelta(days=7)).date()
    bounds = f"from ('{last_week}') to ('{last_week + timedelta(days=1)}')"
    postgres.execute(f"create table raw.old partition of raw.token_deltas for values {bounds}")
    postgres.execute(
        "insert into raw.token_deltas (usage_date, batch_id, source_key, token_id, instance_id, usage_count) "
        "values (%s, 'b', 'k', 't', 'old', 1000)",
        (last_week,),
    )
    scrape = Scrape(service.client)
    assert scrape.value("token_instances") == 13
    assert scrape.value("token_busiest_instance_ratio") == pytest.approx(13 / 91)
    uses = scrape.families["usage_pipeline_token_instance_uses"].samples
    assert [(one.labels["instance"], one.value) for one in uses] == [
        (f'api-{number:02}:80"\\', 2 * number) for number in range(13, 3, -1)
    ]


def test_a_slow_spread_is_left_out_and_the_rest_stays(
    service: Service, postgres: psycopg.Connection, database_url: str
) -> None:
    with psycopg.connect(database_url) as blocker:
        blocker.execute("lock table raw.token_deltas")
        scrape = Scrape(service.client)
    assert scrape.value("token_instances") is None
    assert scrape.value("up", part="database") == 1
    assert scrape.value("dead_letters_open", family="token") == 0


def test_many_scrapes_at_once_are_one_reading(
    service: Service, monkeypatch: pytest.MonkeyPatch, database_url: str, postgres: psycopg.Connection
) -> None:
    monkeypatch.setattr(pipeline_metrics, "KEPT_SECONDS", 600.0)
    readings = []
    read = pipeline_metrics.read_ledger

    async def counted(connection: Any) -> Any:
        readings.append(connection)
        return await read(connection)

    monkeypatch.setattr(pipeline_metrics, "read_ledger", counted)
    with ThreadPoolExecutor(20) as scrapers:
        statuses = list(scrapers.map(lambda _: service.client.get("/metrics").status_code, range(60)))
    assert statuses == [200] * 60
    assert len(readings) == 1


def test_requests_in_hand_are_seen(
    service: Service, token: str, database_url: str, postgres: psycopg.Connection
) -> None:
    client = service.with_token(token)
    with psycopg.connect(database_url) as blocker:
        blocker.execute("lock table analytics.usage_event_ids")
        sending = threading.Thread(target=client.post, args=(EVENTS_PATH,), kwargs={"json": [event()]})
        sending.start()
        wait_until(lambda: Scrape(client).value("http_requests_in_progress") == 2, "a request in hand", 20)
    sending.join(30)
    assert Scrape(client).value("http_requests_in_progress") == 1


def test_workers_add_up_what_they_count_and_one_that_died_has_nothing_in_hand(
    settings: Settings, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_dsn.get_secret_value(),
        "TMPDIR": str(tmp_path),
    }
    port = free_port()
    code = "from usage_pipeline.cli import main; main()"
    arguments = ["api", "--port", str(port), "--workers", "2"]
    log = tmp_path / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stderr=output, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def asked() -> bool:
        # A connection for each, so that both processes get some.
        return httpx.get(f"{url}/docs", timeout=30, trust_env=False).status_code == 200

    try:
        wait_until(
            lambda: is_listening(port) and log.read_text().count("Application startup complete") == 2,
            "both workers have started",
            60,
        )
        assert all(asked() for _ in range(40))
        [folder] = tmp_path.glob("usage-pipeline-metrics-*")
        workers = [file.stem.rpartition("_")[2] for file in folder.glob("counter_*.db")]
        assert len(workers) == 2
        (folder / "gauge_livesum_999999999.db").write_bytes((folder / f"gauge_livesum_{workers[0]}.db").read_bytes())
        with httpx.Client(base_url=url, trust_env=False) as client:
            for _ in range(3):
                scrape = Scrape(client)
                assert scrape.value("http_requests_total", route="/docs", method="GET", status="2xx") == 40
                assert scrape.value("http_request_duration_seconds_count", route="/docs") == 40
                assert scrape.value("up", part="database") == 1
        assert not (folder / "gauge_livesum_999999999.db").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
        assert not folder.exists()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
