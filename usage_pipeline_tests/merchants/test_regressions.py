"""Merchant counters that fell, as an operator meets them: the alert's advice is followed to the letter."""

import random
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
import redis
from usage_recorder.keys import merchant_counter
from usage_recorder.recorder import Recorder

from usage_pipeline.alerting.facts import PipelineFacts
from usage_pipeline.alerting.reading import read_regressions
from usage_pipeline.alerting.rules import RULES
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.merchants.regressions import (
    Decision,
    Filters,
    accept_corrections,
    accept_resets,
    accept_restores,
)
from usage_pipeline.reconciliation.comparison import reconcile
from usage_pipeline.reconciliation.odometers import note_odometers
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.rigs.commands import Run, run_command


def advised(postgres: psycopg.Connection, settings: Settings) -> list[list[str]]:
    """The arguments of each command that the open alert names, in its order."""
    facts = PipelineFacts(regressions=read_regressions(postgres))
    [rule] = [rule for rule in RULES if rule.name == "counter-regression"]
    [alert] = rule.alerts(getattr(facts, rule.part), settings)
    return [shlex.split(command)[1:] for command in re.findall(r"`(usage-pipeline [^`]+)`", alert.remedy)]


@pytest.mark.parametrize(("counter", "right"), [(95, 95), (3, 103)])
@pytest.mark.parametrize("is_wrong_first", [False, True])
def test_whoever_follows_the_alert_gets_the_right_number_whichever_remedy_comes_first(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    run: Run,
    counter: int,
    right: int,
    is_wrong_first: bool,
) -> None:
    """95: somebody lowered it. 3: Redis lost it, and it began again."""
    day = datetime.now(UTC).date()
    key = merchant_counter("shop-1", day, "orders")
    for value in (100, counter):
        redis_client.set(key, value)
        aggregate(settings, [day])

    status, *remedies = advised(postgres, settings)
    names = ["accept-reset", "accept-restore", "accept-correction"]
    assert [command[:2] for command in remedies] == [["counters", name] for name in names]
    assert "shop-1" in run(*status).stdout
    [right_one] = [command for command in remedies if command[1] == ("accept-reset" if counter == 3 else names[2])]
    wrong = [command for command in remedies if command != right_one]
    for command in (*wrong, right_one, *wrong) if is_wrong_first else (right_one, *wrong):
        run(*command)

    [(stored,)] = postgres.execute("select metric_value from usage.merchant_usage").fetchall()
    assert stored == right
    assert read_regressions(postgres) == ()


def test_the_wrong_remedy_is_refused_in_words_and_by_its_status(
    settings: Settings, redis_client: redis.Redis, run: Run
) -> None:
    day = datetime.now(UTC).date()
    key = merchant_counter("shop-1", day, "orders")
    for value in (100, 95):
        redis_client.set(key, value)
        aggregate(settings, [day])
    refused = run("counters", "accept-reset")
    assert refused.returncode == 1
    assert "accept-correction" in "".join(refused.stdout.split())
    sure = run("counters", "accept-reset", "--sure", "--merchant", "shop-1")
    assert sure.returncode == 2
    assert "expected --merchant, --date and --metric with it" in sure.stderr
    assert "--reason" in run("counters", "accept-correction").stderr
    exact = ("--merchant", "shop-1", "--date", str(day), "--metric", "orders")
    assert run("counters", "accept-reset", "--sure", *exact).returncode == 0
    nothing = run("counters", "accept-reset")
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "Nothing to accept: no open regression is meant.")


def test_an_upgrade_tells_settled_regressions_from_closed_ones_and_leaves_open_ones_open(
    postgres: psycopg.Connection,
) -> None:
    """The version before had no outcome: only whether the counter was lower when it was settled."""
    postgres.execute(
        "alter table ops.counter_regressions drop column outcome, drop column value_before, drop column value_after, "
        "drop column decided_by, drop column reason"
    )
    postgres.execute("alter table ops.reconciliation drop column forgotten, drop column counted_twice")
    postgres.execute("drop table ops.odometers")
    postgres.execute(
        """
        insert into ops.counter_regressions (merchant_id, date, metric_type, stored_value, counter_value, accepted_at)
        values ('folded', '2026-11-01', 'x', 100, 20, now()), ('back', '2026-11-01', 'x', 100, 100, now()),
               ('open', '2026-11-01', 'x', 100, 95, null)
        """
    )
    [migration] = (sql_folder() / "migrations" / "versions").glob("*_corrections_of_counters.sql")
    postgres.execute(migration.read_text(encoding="utf-8").encode())
    found = postgres.execute("select merchant_id, outcome, value_after from ops.counter_regressions").fetchall()
    assert sorted(found) == [("back", "closed", None), ("folded", "folded", None), ("open", None, None)]


class Shop:
    """One merchant's counter, the Redis that it is in, and whoever aggregates; its writers use our recorder, or do not."""

    def __init__(
        self, settings: Settings, client: redis.Redis, postgres: psycopg.Connection, is_recorded: bool
    ) -> None:
        self.settings, self.client, self.postgres = settings, client, postgres
        self.day = datetime.now(UTC).date()
        self.recorder = Recorder(client) if is_recorded else None

    def sell(self, orders: int) -> None:
        if self.recorder:
            assert self.recorder.record_merchant("shop-1", "orders", value=orders)
        else:
            self.client.incrby(merchant_counter("shop-1", self.day, "orders"), orders)

    def refund(self, orders: int) -> None:
        self.client.decrby(merchant_counter("shop-1", self.day, "orders"), orders)

    def aggregate(self) -> int:
        """How many counters wait for a decision."""
        note_odometers(self.settings)
        return aggregate(self.settings, [self.day]).days[0].regressions

    def file(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.client.scan_iter()}

    def start_from(self, file: dict[bytes, bytes]) -> None:
        self.client.flushall()
        for key, dumped in file.items():
            self.client.restore(key, 0, dumped)
        note_odometers(self.settings)

    @property
    def stored(self) -> int:
        [(stored,)] = self.postgres.execute("select metric_value from usage.merchant_usage").fetchall()
        return int(stored)

    def missing(self) -> int:
        report = reconcile(self.settings, sleep=lambda _: None)
        return sum(row.missing + row.counted_twice for row in report.rows)


def flushed(shop: Shop) -> int:
    shop.sell(100)
    shop.aggregate()
    shop.start_from({})
    shop.sell(3)
    return 103


def lowered(shop: Shop) -> int:
    shop.sell(100)
    shop.aggregate()
    shop.refund(5)
    return 95


def went_back(shop: Shop) -> int:
    shop.sell(60)
    shop.aggregate()
    old = shop.file()
    shop.sell(40)
    shop.aggregate()
    shop.start_from(old)
    shop.sell(5)
    return 105


def went_far_back(shop: Shop) -> int:
    shop.sell(10)
    shop.aggregate()
    old = shop.file()
    shop.sell(90)
    shop.aggregate()
    shop.start_from(old)
    shop.sell(5)
    return 105


def came_back(shop: Shop) -> int:
    """Lost, settled as the alert says, and then the right file is put back, with what was not aggregated before."""
    shop.sell(100)
    shop.aggregate()
    shop.sell(2)
    right = shop.file()
    shop.start_from({})
    shop.sell(3)
    shop.aggregate()
    follow_all(shop)
    shop.start_from(right)
    shop.sell(4)
    return 109


def came_back_old(shop: Shop) -> int:
    """Lost, settled, and then an older file is put back."""
    shop.sell(60)
    shop.aggregate()
    old = shop.file()
    shop.sell(40)
    shop.aggregate()
    shop.start_from({})
    shop.sell(3)
    shop.aggregate()
    follow_all(shop)
    shop.start_from(old)
    shop.sell(4)
    return 107


def lost_twice(shop: Shop) -> int:
    flushed(shop)
    shop.aggregate()
    follow_all(shop)
    shop.start_from({})
    # More than before the second loss, so that it does not read lower.
    shop.sell(9)
    return 112


def follow_all(shop: Shop, *, is_backwards: bool = False) -> None:
    """All remedies of the alert, in its order or from the last to the first."""
    _, *remedies = advised(shop.postgres, shop.settings)
    for command in remedies[::-1] if is_backwards else remedies:
        run_command(shop.settings, *command)


RECORDED_WORLDS = [flushed, lowered, went_back, went_far_back, came_back, came_back_old]
FOREIGN_WORLDS = [flushed, lowered, came_back]


@pytest.mark.parametrize(
    ("world", "is_recorded"),
    [*((world, True) for world in RECORDED_WORLDS), *((world, False) for world in FOREIGN_WORLDS)],
)
@pytest.mark.parametrize("is_backwards", [False, True], ids=["in order", "backwards"])
def test_the_alert_leads_to_the_right_number_in_each_world(
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    world: Callable[[Shop], int],
    is_recorded: bool,
    is_backwards: bool,
) -> None:
    shop = Shop(settings, redis_client, postgres, is_recorded)
    right = world(shop)
    assert shop.aggregate() == 1, "it is told, and nothing is changed"
    follow_all(shop, is_backwards=is_backwards)
    assert shop.stored == right
    assert read_regressions(postgres) == ()
    shop.sell(7)
    assert shop.aggregate() == 0
    assert shop.stored == right + 7
    if is_recorded:
        assert shop.missing() == 0


def test_a_counter_that_was_lost_twice_and_overtook_itself_waits_for_somebody_who_is_sure(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    shop = Shop(settings, redis_client, postgres, is_recorded=True)
    right = lost_twice(shop)
    assert shop.aggregate() == 1
    follow_all(shop)
    assert shop.stored == 103
    exact = ("--merchant", "shop-1", "--date", str(shop.day), "--metric", "orders", "--sure")
    assert run_command(settings, "counters", "accept-reset", *exact).returncode == 0
    assert shop.stored == right


def test_a_settled_counter_that_only_grows_is_not_asked_about(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """Where an odometer says that nothing happened, however fast it grows past what it was."""
    shop = Shop(settings, redis_client, postgres, is_recorded=True)
    flushed(shop)
    shop.aggregate()
    follow_all(shop)
    for orders in (97, 500, 1):
        shop.sell(orders)
        assert shop.aggregate() == 0
    assert shop.stored == 103 + 598


def test_an_old_file_of_many_counters_never_raises_what_is_stored(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    """Which counter was written between the return and the first look, no odometer tells: that much is missing, and told."""
    recorder, day = Recorder(redis_client), datetime.now(UTC).date()
    shop = Shop(settings, redis_client, postgres, is_recorded=True)
    for merchant in ("a", "b"):
        recorder.record_merchant(merchant, "orders", value=60)
    shop.aggregate()
    old = shop.file()
    for merchant in ("a", "b"):
        recorder.record_merchant(merchant, "orders", value=40)
    shop.aggregate()
    shop.start_from(old)
    recorder.record_merchant("a", "orders", value=5)
    assert shop.aggregate() == 2
    recorder.record_merchant("b", "orders", value=7)
    follow_all(shop)
    assert shop.aggregate() == 0
    stored = postgres.execute("select merchant_id, metric_value from usage.merchant_usage order by 1").fetchall()
    assert stored == [("a", 100), ("b", 107)]
    assert [(row.usage_date, row.missing) for row in reconcile(settings, sleep=lambda _: None).missing] == [(day, 5)]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_redis_comes_back_with_somebody_who_knows_what_happened_can_tell_and_gets_the_right_number(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, seed: int
) -> None:
    """Two counters; files are saved, put back and lost at random. Who decides runs all remedies, and is sure about the rest."""
    rnd = random.Random(seed)
    recorder, day = Recorder(redis_client), datetime.now(UTC).date()
    shop = Shop(settings, redis_client, postgres, is_recorded=True)
    truth = {"a": 0, "b": 0}
    files: list[dict[bytes, bytes]] = [{}]
    trace: list[object] = []

    def sell(least: int, most: int) -> None:
        counted = "select merchant_id, metric_value - reset_offset from usage.merchant_usage"
        before = dict(postgres.execute(counted).fetchall())
        for merchant in truth:
            # A counter that is back at its very value without anybody having looked is not seen.
            has = int(redis_client.get(merchant_counter(merchant, day, "orders")) or 0)
            orders = rnd.choice([one for one in range(least, most + 1) if has + one != before.get(merchant)])
            trace.append((merchant, has, orders))
            recorder.record_merchant(merchant, "orders", value=orders)
            truth[merchant] += orders

    def settle(right: Callable[..., list[Decision]]) -> None:
        shop.aggregate()
        told = [*accept_resets(settings), *accept_restores(settings), *accept_corrections(settings, reason="all")]
        trace.append([(one.key.merchant_id, one.outcome, one.stored_after, one.reason) for one in told])
        for merchant in truth:
            right(settings, Filters(merchant, day, "orders"), reason="known", is_sure=True)

    sell(20, 60)
    for _ in range(25):
        shop.aggregate()
        match rnd.choice(["sell", "save", "start", "start", "refund"]):
            case "sell":
                sell(20, 60)
                settle(accept_corrections)
            case "save":
                files.append(shop.file())
            case "refund":
                merchant = rnd.choice(list(truth))
                if int(redis_client.get(merchant_counter(merchant, day, "orders")) or 0) < 5:
                    continue
                redis_client.decrby(merchant_counter(merchant, day, "orders"), 2)
                truth[merchant] -= 2
                # An older file would undo it, which no odometer shows.
                files[1:] = []
                settle(accept_corrections)
            case "start":
                file = rnd.choice(files)
                trace.append(("start", files.index(file)))
                shop.start_from(file)
                shop.aggregate()
                sell(5, 9)
                settle(accept_restores if file else accept_resets)
        stored = dict(postgres.execute("select merchant_id, metric_value from usage.merchant_usage").fetchall())
        assert stored == truth, "\n".join(map(str, trace))
    assert read_regressions(postgres) == ()
