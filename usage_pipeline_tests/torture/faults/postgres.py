"""Faults of PostgreSQL: backends terminated during apply, before and after their COMMIT took effect, and the server stopped."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import psycopg

from usage_pipeline.storage.connecting.database import APPLICATION_NAME
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.arena import Arena, Outcome, arena
from usage_pipeline_tests.torture.servers import Stage

# Finds and ends in one statement, so that the backend has hardly moved on in between.
_TERMINATE = """
with victim as materialized (
    select pid, query
    from pg_stat_activity
    where datname = current_database() and application_name = %(application)s and {condition}
    order by random()
    limit 1
)
select query from victim where pg_terminate_backend(pid)
"""
_ANYWHERE = "true"
_APPLYING = "state = 'active' and query ~* '^\\s*(--[^\\n]*\\n\\s*)*(copy|insert|with|update)\\M'"
_COMMITTING = "state = 'active' and query = 'COMMIT' and wait_event = 'PgSleep'"
_COMMITTED = "wait_event = 'SyncRep'"

# Some milliseconds in each statement that stores, so that a termination meets it there, and in each COMMIT before it counts.
_SLOW_APPLY = """
create function public.torture_pause() returns trigger language plpgsql as $$
begin
    perform pg_sleep(0.003);
    return null;
end $$;
create trigger torture before insert on usage.api_keys execute function public.torture_pause();
create trigger torture before insert on usage.provider_usage execute function public.torture_pause();
create trigger torture before insert on usage.api_access_tokens execute function public.torture_pause();
create trigger torture before insert on raw.request_event_ids execute function public.torture_pause();
"""
_SLOW_COMMIT = """
create function public.torture_commit() returns trigger language plpgsql as $$
begin
    perform pg_sleep(0.02);
    return null;
end $$;
create constraint trigger torture_commit after insert on ops.sync_batches
deferrable initially deferred for each row execute function public.torture_commit();
"""
_COMMITS_WITHOUT_ANSWER_IN_A_ROW = 4
_LONGEST_PAUSE_SECONDS = 0.05


def terminate_in_apply(stage: Stage, times: int, seed: int) -> Outcome:
    """`pg_terminate_backend`: every third at any moment, the others while a statement stores."""
    chance, met = random.Random(seed), Counter[str]()

    def torture(postgres: psycopg.Connection, here: Arena) -> None:
        postgres.execute(_SLOW_APPLY)
        for number in range(times):
            query = _terminate(postgres, _ANYWHERE if number % 3 == 0 else _APPLYING)
            met["at any moment" if number % 3 == 0 else _verb(query)] += 1
            time.sleep(chance.uniform(0, _LONGEST_PAUSE_SECONDS))

    return _under_load(stage, seed, "pg_terminate_backend during apply", times, torture, met)


def terminate_at_commit(stage: Stage, times: int, seed: int) -> Outcome:
    """At COMMIT: half of them before it took effect, half after, when it is done and the drainer never hears of it."""
    chance, met = random.Random(seed), Counter[str]()

    def torture(postgres: psycopg.Connection, here: Arena) -> None:
        postgres.execute(_SLOW_COMMIT)
        while met.total() < times:
            for _ in range(min(_COMMITS_WITHOUT_ANSWER_IN_A_ROW, times - met.total())):
                _terminate(postgres, _COMMITTING)
                met["before it counted"] += 1
                time.sleep(chance.uniform(0, _LONGEST_PAUSE_SECONDS))
            stage.require_standby(True)
            try:
                for _ in range(min(_COMMITS_WITHOUT_ANSWER_IN_A_ROW, times - met.total())):
                    _terminate(postgres, _COMMITTED)
                    met["after it counted"] += 1
            finally:
                stage.require_standby(False)

    return _under_load(stage, seed, "pg_terminate_backend at COMMIT", times, torture, met)


def restart_postgres(stage: Stage, times: int, seed: int) -> Outcome:
    """Stopped in turns as `-m immediate` (a crash) and `-m fast` do, and started again."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        here = _arena(stage, seed, stack)
        for number in range(times):
            time.sleep(chance.uniform(0.1, 1.0))
            stage.end_postgres(signal.SIGINT if number % 2 else signal.SIGQUIT)
            time.sleep(chance.uniform(0, 0.3))
            stage.start_postgres()
        return here.outcome("PostgreSQL stopped and started", times, f"{(times + 1) // 2} of them as a crash")


def _under_load(
    stage: Stage,
    seed: int,
    fault: str,
    times: int,
    torture: Callable[[psycopg.Connection, Arena], None],
    met: Counter[str],
) -> Outcome:
    with ExitStack() as stack:
        here = _arena(stage, seed, stack)
        with here.postgres() as postgres:
            torture(postgres, here)
        return here.outcome(fault, times, ", ".join(f"{what} {count}" for what, count in met.most_common()))


def _arena(stage: Stage, seed: int, stack: ExitStack) -> Arena:
    server = stack.enter_context(stage.running_redis())
    here = stack.enter_context(arena(stage, server.port, seed))
    here.load.start()
    here.start_drainers()
    return here


def _terminate(postgres: psycopg.Connection, condition: str) -> str:
    """Terminates one drainer's backend that meets the condition, as soon as there is one; returns its query."""
    found: list[str] = []

    def terminate() -> bool:
        rows = postgres.execute(_TERMINATE.format(condition=condition), {"application": APPLICATION_NAME}).fetchall()
        found.extend(query for (query,) in rows)
        return bool(found)

    wait_until(terminate, f"a drainer's backend is to be found where {condition}")
    return found[0]


def _verb(query: str) -> str:
    statement = [line for line in query.splitlines() if not line.startswith("--")]
    return statement[0].split()[0].lower() if statement else "?"
