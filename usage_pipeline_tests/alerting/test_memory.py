"""What evaluations remember: how long something waits though nobody stamps it, and what is usual of Redis."""

from usage_pipeline.alerting.memory import LEAST_SAMPLES, SAMPLES, Memory, Sample, Waiting


def look(waiting: int, stored_at: float | None = None, open_seconds: float = 0.0) -> Waiting:
    return Waiting("token", waiting, 0, open_seconds, stored_at, 60.0)


def ages(*looks: tuple[float, Waiting]) -> list[float]:
    memory, found = Memory(), []
    for now, one in looks:
        memory = Memory.of_json(memory.after_waiting([one], now).as_json())
        found.append(memory.ages([one], now)[0].age_seconds)
    return found


def test_what_waits_at_each_look_with_nothing_stored_has_waited_all_the_time() -> None:
    assert ages((0, look(5)), (30, look(5)), (60, look(7)), (90, look(7))) == [0, 30, 60, 90]


def test_what_waits_after_a_batch_was_stored_may_be_new() -> None:
    assert ages((0, look(5)), (30, look(5, 20)), (60, look(7, 20)), (90, look(7, 65))) == [0, 0, 30, 0]


def test_nothing_that_waits_has_no_age() -> None:
    assert ages((0, look(5)), (30, look(0)), (60, look(5))) == [0, 0, 0]


def test_a_claimed_batch_is_as_old_as_its_claim() -> None:
    assert ages((0, look(0, open_seconds=500.0))) == [500]


def test_usual_is_the_median_of_the_last_hour_once_there_are_samples_enough() -> None:
    memory = Memory()
    for minute in range(LEAST_SAMPLES - 1):
        memory = memory.after_sample(Sample(60.0 * minute, 100, 10))
    now = 60.0 * LEAST_SAMPLES
    assert memory.load(Sample(now, 900, 90), 0).usual_keys is None
    memory = Memory.of_json(memory.after_sample(Sample(now, 900, 90)).as_json())
    load = memory.load(Sample(now + 60, 900, 90), 5)
    assert (load.usual_memory_bytes, load.usual_keys, load.most_memory_bytes, load.memory_bytes) == (100, 10, 5, 900)


def test_samples_are_one_a_minute_for_an_hour() -> None:
    memory = Memory()
    for seconds in range(0, 3 * 3600, 30):
        memory = memory.after_sample(Sample(float(seconds), seconds, 1))
    assert len(memory.samples) == SAMPLES
    assert memory.samples[-1].at - memory.samples[0].at == 60 * (SAMPLES - 1)
