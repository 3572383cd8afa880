"""Who may read `/metrics`, and how often its text is made."""

import hmac
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from usage_pipeline.api.metrics import exposition
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.metrics.exposition import Exposition
from usage_pipeline.api.metrics.pipeline import PipelineMetrics
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline_tests.rigs.service import Service, expect_problem, new_token, serving

SECRET = "0123456789abcdef-of-prometheus"


@pytest.fixture
def guarded(settings: Settings) -> Iterator[Service]:
    url, redis_url = settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value()
    with serving(load_settings(database_url=url, redis_url=redis_url, metrics_token=SECRET)) as service:
        yield service


def test_only_the_whole_metrics_token_is_let_in(guarded: Service, postgres: psycopg.Connection) -> None:
    wrong = [
        None,
        "",
        "Bearer",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET}x",
        f"Bearer  {SECRET}",
        f"Basic {SECRET}",
        SECRET,
        "Bearer ÿþ",
        f"Bearer {new_token(postgres, 'read', 'ingest')}",
    ]
    for authorization in wrong:
        headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
        answer = guarded.client.get("/metrics", headers=headers)
        assert SECRET not in expect_problem(answer, 401, "unauthorized"), authorization
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert "usage_pipeline_http" not in answer.text
    for scheme in ("Bearer", "bearer"):
        answer = guarded.client.get("/metrics", headers={"Authorization": f"{scheme} {SECRET}"})
        assert answer.status_code == 200
        assert "usage_pipeline_up" in answer.text
        assert SECRET not in answer.text


def test_the_token_is_compared_as_a_whole(guarded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def noting(came: bytes, expected: bytes) -> bool:
        compared.append((came, expected))
        return hmac.compare_digest(came, expected)

    class Noting:
        compare_digest = staticmethod(noting)

    monkeypatch.setattr(exposition, "hmac", Noting)
    for came in ("x", SECRET):
        guarded.client.get("/metrics", headers={"Authorization": f"Bearer {came}"})
    assert compared == [(b"x", SECRET.encode()), (SECRET.encode(), SECRET.encode())]


def test_the_metrics_token_is_a_secret_and_opens_nothing_else(guarded: Service) -> None:
    assert SECRET not in repr(load_settings(metrics_token=SECRET))
    answer = guarded.client.get("/api/usage/summary", headers={"Authorization": f"Bearer {SECRET}"})
    expect_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize(
    "secret", ["", "short", "with spaces in it, and long", "ümlaut-in-a-long-token", "a" * 15, "a\n" * 20]
)
def test_a_token_that_is_no_secret_is_a_wrong_setting(secret: str) -> None:
    with pytest.raises(SettingsError, match="METRICS_TOKEN: expected at least 16 characters") as refused:
        load_settings(metrics_token=secret)
    assert not secret or secret not in str(refused.value)


def test_many_scrapes_are_one_text(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "TEXT_SECONDS", 600.0)
    made = []
    make = Metrics.exposition

    def counted(self: Metrics, *more: object) -> bytes:
        made.append(self)
        return make(self, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Metrics, "exposition", counted)
    with ThreadPoolExecutor(20) as scrapers:
        texts = list(scrapers.map(lambda _: service.client.get("/metrics").text, range(60)))
    assert len(set(texts)) == 1
    assert len(made) == 1


async def test_the_text_is_made_again_after_a_second(settings: Settings, postgres: psycopg.Connection) -> None:
    now = [1_000.0]
    metrics = Metrics()
    exposition = Exposition(metrics, PipelineMetrics(settings), timer=lambda: now[0])
    first = await exposition.text()
    metrics.cache_lookup("token", "hit")
    now[0] += 0.9
    assert await exposition.text() == first
    now[0] += 0.2
    again = await exposition.text()
    assert again != first
    assert b'usage_pipeline_cache_lookups_total{cache="token",outcome="hit"} 1.0' in again
