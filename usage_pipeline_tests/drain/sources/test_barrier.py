"""Which barrier a server gets, and whether it holds back what is not durable."""

from collections.abc import Iterator

import pytest
import redis

from usage_pipeline.drain.sources.barrier import BarrierPlan, ServerFacts, pass_barrier, plan_barrier, read_facts
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable
from usage_pipeline.storage.servers.eviction import Eviction


def facts(
    *,
    version: tuple[int, ...] = (7, 2, 0),
    replicas: int = 0,
    has_aof: bool = False,
    fsyncs_always: bool = False,
    has_snapshots: bool = False,
) -> ServerFacts:
    return ServerFacts("run repl", version, replicas, has_aof, fsyncs_always, has_snapshots)


@pytest.mark.parametrize(
    ("server", "plan"),
    [
        (facts(), BarrierPlan()),
        (facts(replicas=2), BarrierPlan(replicas=2)),
        (facts(has_aof=True, fsyncs_always=True), BarrierPlan()),
        (facts(has_aof=True, fsyncs_always=True, replicas=1), BarrierPlan(replicas=1)),
        (facts(has_aof=True, fsyncs_always=True, has_snapshots=True), BarrierPlan()),
        (facts(has_aof=True), BarrierPlan(local_fsyncs=1)),
        (facts(has_aof=True, replicas=1), BarrierPlan(replicas=1, local_fsyncs=1)),
        (facts(has_aof=True, version=(7, 0, 15)), BarrierPlan(minimum_age_ms=3_000)),
        (facts(has_aof=True, version=(6, 2), replicas=1), BarrierPlan(replicas=1, minimum_age_ms=3_000)),
        (facts(replicas=1, has_snapshots=True), BarrierPlan(replicas=1)),
    ],
)
def test_auto_chooses_by_what_the_server_is(server: ServerFacts, plan: BarrierPlan) -> None:
    assert plan_barrier(server, "auto") == plan


def test_snapshots_alone_are_warned_of() -> None:
    plan = plan_barrier(facts(has_snapshots=True), "auto")
    assert (plan.replicas, plan.local_fsyncs, plan.minimum_age_ms) == (0, 0, 0)
    assert plan.warning is not None
    assert "snapshots" in plan.warning


def test_the_setting_has_the_last_word() -> None:
    server = facts(has_aof=True, replicas=2)
    assert plan_barrier(server, "none") == BarrierPlan()
    assert plan_barrier(server, "wait") == BarrierPlan(replicas=2)
    assert plan_barrier(facts(), "wait") == BarrierPlan(replicas=1)
    assert plan_barrier(server, "waitaof") == BarrierPlan(replicas=2, local_fsyncs=1)
    assert plan_barrier(server, "age") == BarrierPlan(minimum_age_ms=3_000)


class ScriptedConnection:
    """Answers a pinned connection would give, by command name."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers, self.sent = answers, list[str]()

    def call(self, *command: object) -> object:
        self.sent.append(str(command[0]))
        answer = self.answers[str(command[0])]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("plan", "answers", "holds", "sent"),
    [
        (BarrierPlan(), {}, True, []),
        (BarrierPlan(minimum_age_ms=3_000), {}, True, []),
        (BarrierPlan(replicas=1), {"SET": b"OK", "WAIT": 1}, True, ["SET", "WAIT"]),
        (BarrierPlan(replicas=2), {"SET": b"OK", "WAIT": 1}, False, ["SET", "WAIT"]),
        (BarrierPlan(local_fsyncs=1), {"SET": b"OK", "WAITAOF": [1, 0]}, True, ["SET", "WAITAOF"]),
        (BarrierPlan(local_fsyncs=1), {"SET": b"OK", "WAITAOF": [0, 0]}, False, ["SET", "WAITAOF"]),
        (
            BarrierPlan(replicas=1, local_fsyncs=1),
            {"SET": b"OK", "WAIT": 1, "WAITAOF": [1, 1]},
            True,
            ["SET", "WAIT", "WAITAOF"],
        ),
    ],
)
def test_a_barrier_holds_when_enough_confirm_what_was_just_written(
    plan: BarrierPlan, answers: dict[str, object], holds: bool, sent: list[str]
) -> None:
    connection = ScriptedConnection(answers)
    assert pass_barrier(connection, plan) is holds
    assert connection.sent == sent


def test_facts_without_config_are_the_cautious_ones() -> None:
    info = b"# Server\r\nredis_version:7.4.1\r\nrun_id:r\r\nmaster_replid:m\r\nconnected_slaves:1\r\naof_enabled:1\r\n"
    connection = ScriptedConnection({"INFO": info, "CONFIG": redis.ResponseError("unknown command 'CONFIG'")})
    found = read_facts(connection)
    assert found == ServerFacts("r m", (7, 4, 1), 1, True, False, True, eviction=Eviction(None))
    assert plan_barrier(read_facts(connection), "auto") == BarrierPlan(replicas=1, local_fsyncs=1)


def test_facts_without_info_and_config_are_unknown_and_every_claim_waits() -> None:
    refused = redis.exceptions.NoPermissionError("this user has no permissions")
    hello = [b"server", b"redis", b"version", b"7.4.1", b"mode", b"standalone", b"role", b"master", b"modules", []]
    found = read_facts(ScriptedConnection({"INFO": refused, "CONFIG": refused, "HELLO": hello}))
    assert (found.is_known, found.version, found.eviction.policy) == (False, (7, 4, 1), None)
    plan = plan_barrier(found, "auto")
    assert (plan.replicas, plan.local_fsyncs, plan.minimum_age_ms) == (0, 0, 3_000)
    assert "Allow +info" in (plan.warning or "")
    assert plan_barrier(found, "wait") == BarrierPlan(replicas=1)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (
            b"redis_version:6.0.16\r\nrole:master\r\n",
            "Redis: expected Redis 6.2 or newer, or Valkey, came Redis 6.0.16",
        ),
        (b"redis_version:7.4.1\r\nrole:slave\r\n", "Redis: expected a primary, came a replica"),
    ],
)
def test_an_old_server_and_a_replica_are_refused_in_one_line(info: bytes, said: str) -> None:
    with pytest.raises(RedisUnavailable, match=f"^{said}"):
        read_facts(ScriptedConnection({"INFO": info}))


@pytest.fixture
def pinned(redis_client: redis.Redis) -> Iterator[PinnedConnection]:
    with PinnedConnection(redis_client) as connection:
        yield connection


def test_the_embedded_server_needs_no_barrier(pinned: PinnedConnection) -> None:
    server = read_facts(pinned)
    assert server.has_aof
    assert server.fsyncs_always
    assert not server.has_snapshots
    assert plan_barrier(server, "auto") == BarrierPlan()
    run_id, replication_id = server.identity.split()
    assert len(run_id) == len(replication_id) == 40


def test_a_replica_that_is_not_there_makes_the_barrier_fall_short(
    pinned: PinnedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.sources.barrier._TIMEOUT_MS", 10)
    assert not pass_barrier(pinned, BarrierPlan(replicas=1))
