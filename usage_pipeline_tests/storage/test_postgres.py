"""What our sessions rely on, and a connection that is interrupted in the middle of a statement, as Dagster cancels a run."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NoReturn

import psycopg
import pytest
from psycopg import sql

from usage_pipeline.api.storing import STATEMENT_SECONDS, Storing
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import (
    connect,
    connect_async,
    is_mended_by_time,
    is_rolled_back,
    waiting_for_locks,
)
from usage_pipeline_tests.rigs.waiting import wait_until

SLEEPING = "select pid from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"


class Interrupted(BaseException):
    """Neither an Exception nor a KeyboardInterrupt, like Dagster's."""


def raise_interrupted(*_: object) -> NoReturn:
    raise Interrupted


@contextmanager
def interrupted_in_its_sleep(postgres: psycopg.Connection) -> Iterator[None]:
    """The block is interrupted by a signal once a statement of it sleeps in the server."""

    def interrupt() -> None:
        wait_until(lambda: postgres.execute(SLEEPING).fetchall(), "a statement sleeps", 20)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR1, raise_interrupted)
    thread.start()
    try:
        yield
    except Interrupted:
        pass
    else:
        pytest.fail("was not interrupted")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupted_statement_ends_in_the_server_and_the_connection_goes_on(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    with closing(connect(settings)) as connection:
        with interrupted_in_its_sleep(postgres), connection.transaction():
            connection.execute("create table half_done ()")
            connection.execute("select pg_sleep(30)")
        assert postgres.execute(SLEEPING).fetchall() == []
        assert connection.execute("select to_regclass('half_done')").fetchall() == [(None,)], "rolled back"


def test_what_follows_an_interrupted_statement_does_not_hide_the_interrupt(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    locks = "select count(*) from pg_locks where locktype = 'advisory' and objid = 1"
    with closing(connect(settings)) as connection:
        with interrupted_in_its_sleep(postgres):
            connection.execute("select pg_advisory_lock(1)")
            try:
                connection.execute("select pg_sleep(30)")
            finally:
                connection.execute("select pg_advisory_unlock(1)")
        assert postgres.execute(locks).fetchall() == [(0,)]


def test_an_interrupted_copy_stores_nothing(settings: Settings, postgres: psycopg.Connection) -> None:
    postgres.execute("create table copied (number int)")
    postgres.execute(
        "create function sleep_long() returns trigger language plpgsql as 'begin perform pg_sleep(30); return new; end'"
    )
    postgres.execute("create trigger slow before insert on copied for each row execute function sleep_long()")
    with closing(connect(settings)) as connection:
        with (
            interrupted_in_its_sleep(postgres),
            connection.cursor() as cursor,
            cursor.copy("copy copied from stdin") as copy,
        ):
            copy.write_row([1])
        assert connection.execute("select count(*) from copied").fetchall() == [(0,)]


# What an administrator may have set for a database or a role, and what must hold all the same.
ODD = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "timezone": ("Asia/Tokyo", "UTC"),
    "client_encoding": ("LATIN1", "UTF8"),
    "datestyle": ("German", "ISO, YMD"),
    "intervalstyle": ("iso_8601", "postgres"),
    "synchronous_commit": ("off", "on"),
    "lock_timeout": ("7s", "5min"),
    "statement_timeout": ("11min", "11min"),
}
NO_LIMITS_OF_OURS = {"lock_timeout": "7s"}


@pytest.fixture
def odd_database(postgres: psycopg.Connection) -> None:
    for name, (odd, _) in ODD.items():
        postgres.execute(
            sql.SQL("alter database {} set {} = {}").format(
                sql.Identifier(postgres.info.dbname), sql.Identifier(name), sql.Literal(odd)
            )
        )


def held_by(connection: psycopg.Connection) -> dict[str, str]:
    return dict(
        connection.execute("select name, current_setting(name) from unnest(%s::text[]) as name", ([*ODD],)).fetchall()
    )


def of_a_run(settings: Settings) -> dict[str, str]:
    with closing(connect(settings)) as connection:
        return held_by(connection)


def of_the_service(settings: Settings) -> dict[str, str]:
    with closing(Storing(settings)) as storing:
        storing.pool.open()
        with storing.pool.connection() as connection:
            return held_by(connection)


def of_a_reading(settings: Settings) -> dict[str, str]:
    async def read() -> dict[str, str]:
        async with await connect_async(settings) as connection:
            found = await connection.execute(
                "select name, current_setting(name) from unnest(%s::text[]) as name", ([*ODD],)
            )
            return dict(await found.fetchall())

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("session", "differing"),
    [
        (of_a_run, {}),
        (of_the_service, NO_LIMITS_OF_OURS | {"statement_timeout": f"{STATEMENT_SECONDS}s"}),
        (of_a_reading, NO_LIMITS_OF_OURS),
    ],
)
def test_a_session_sets_what_it_relies_on_whatever_the_database_has_set(
    session: Callable[[Settings], dict[str, str]], differing: dict[str, str], settings: Settings, odd_database: None
) -> None:
    assert session(settings) == {name: wanted for name, (_, wanted) in ODD.items()} | differing


@pytest.mark.parametrize("stricter", ["local", "remote_apply"])
def test_what_an_administrator_has_chosen_about_standbys_stays(
    stricter: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    postgres.execute(f"alter database {postgres.info.dbname} set synchronous_commit = {stricter}")
    assert of_a_run(settings)["synchronous_commit"] == stricter


def test_options_of_the_url_stay(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    with_options = f"{url}{'&' if '?' in url else '?'}options=-c%20work_mem%3D7MB"
    changed = settings.model_copy(update={"database_url": type(settings.database_url)(with_options)})
    with closing(connect(changed)) as connection:
        assert connection.execute("show work_mem").fetchall() == [("7MB",)]
        assert connection.execute("show timezone").fetchall() == [("UTC",)]


def test_a_limit_on_locks_is_afterwards_what_it_was_before(settings: Settings) -> None:
    show = "show lock_timeout"
    with closing(connect(settings)) as connection:
        with waiting_for_locks(connection, 0.05):
            assert connection.execute(show).fetchall() == [("50ms",)]
            with pytest.raises(ZeroDivisionError), waiting_for_locks(connection, 2):
                raise ZeroDivisionError
            assert connection.execute(show).fetchall() == [("50ms",)]
        with pytest.raises(psycopg.errors.SyntaxError), waiting_for_locks(connection, 2), connection.transaction():
            connection.execute("selec")
        assert connection.execute(show).fetchall() == [("5min",)]


# PostgreSQL's appendix "Error Codes": what each class is about.
ABOUT_THE_SERVER = {
    "08": "Connection Exception",
    "25": "Invalid Transaction State",
    "40": "Transaction Rollback",
    "53": "Insufficient Resources",
    "55": "Object Not In Prerequisite State",
    "57": "Operator Intervention",
    "58": "System Error",
}


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.TransactionTimeout,
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.TooManyConnections,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.AdminShutdown,
        psycopg.errors.DiskFull,
        psycopg.errors.IoError,
        psycopg.InterfaceError,
        psycopg.OperationalError,
    ],
)
def test_what_a_server_is_at_is_mended_by_time(error: type[psycopg.Error]) -> None:
    assert is_mended_by_time(error("said"))


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UndefinedTable,
        psycopg.errors.UniqueViolation,
        psycopg.errors.CheckViolation,
        psycopg.errors.NumericValueOutOfRange,
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.SyntaxError,
        psycopg.ProgrammingError,
    ],
)
def test_what_a_statement_says_is_not_mended_by_time(error: type[psycopg.Error]) -> None:
    assert not is_mended_by_time(error("said"))


def test_each_error_that_psycopg_knows_goes_by_its_class() -> None:
    known = [
        found
        for found in vars(psycopg.errors).values()
        if isinstance(found, type) and issubclass(found, psycopg.Error) and found.sqlstate
    ]
    assert len(known) > 200
    for found in known:
        state = found.sqlstate
        assert is_mended_by_time(found("said")) == (state[:2] in ABOUT_THE_SERVER), found
        assert is_rolled_back(found("said")) == (state[:2] == "40"), found
