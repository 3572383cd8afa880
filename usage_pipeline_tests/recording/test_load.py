"""The recorder under load while drains run: benchmarks/recorder.py at a lower rate. It checks the sums and no times."""

import redis

from benchmarks.recorder import measure
from usage_pipeline.settings import Settings


def test_what_processes_record_while_drains_run_is_stored_once_per_key_and_field(
    settings: Settings, redis_client: redis.Redis
) -> None:
    result = measure(settings, requests_per_minute=6_000, seconds=3, say=lambda line: None, workers=2)
    assert (result.requests, result.calls) == (300, 1_500)
    # Also of a call that a busy machine left without an answer.
    assert (result.lost, result.surplus, result.dropped) == (0, 0, {})
    assert result.recorded_counts > 100
    assert 0 < result.drained_batches_while_recording <= result.drained_batches
    assert list(redis_client.scan_iter("apikey:*:metrics")) == []
