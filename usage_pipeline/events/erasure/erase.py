"""Erasure of a user: prompts, archives and free-form members are removed, a random name replaces the id, counts stay.

One erasure uses the same name everywhere, so that the number of distinct users stays. Each step is a transaction that also
notes its counts, and does nothing when it is repeated: an erasure that was cut short goes on where it stopped. Events of the
user that come after their table was done are new input.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql as compose

from usage_pipeline.events.erasure.landed_files import erase_landed
from usage_pipeline.events.erasure.refused_input import erased_json, erased_letter, erased_reason
from usage_pipeline.events.erasure.spellings import Spellings
from usage_pipeline.events.landing.folder import DONE, Landing
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import delete_file, delete_leftovers, verified
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.parquet import Group
from usage_pipeline.storage.archives.rewrite import rewrite
from usage_pipeline.storage.archives.store import ArchiveDamaged, ArchiveStore, ArchiveUnavailable, archive_store
from usage_pipeline.storage.chunks.locks import CHANGE_WAIT_SECONDS, changing, lock_timeout, removing
from usage_pipeline.storage.chunks.partitions import chunks
from usage_pipeline.storage.lifecycle.timescale import hypertable_chunks
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.sql import load, relation
from usage_pipeline.storage.timescale import is_hypertable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A table in chunks along `key`. The user's rows are removed, or get the random name and lose the `cleared` columns."""

    table: str
    key: str
    cleared: tuple[str, ...] = ()
    removes_rows: bool = False


EVENTS = _Rule("analytics.usage_events", "event_time", ("prompt", "extra"))
CHUNKED = (
    EVENTS,
    _Rule("analytics.message_archives", "event_time", removes_rows=True),
    _Rule("raw.request_events", "usage_date", ("extra",)),
    _Rule("raw.provider_deltas", "usage_date", ("extra",)),
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What all attempts of an erasure did: rows by table. `problems` are files that could not be rewritten."""

    pseudonym: str
    counts: dict[str, int]
    problems: list[str] = field(default_factory=list)


def erase(settings: Settings, user_id: str) -> Erasure:
    """Erases the user everywhere in PostgreSQL, in archived files, and in landed files that were read.

    A damaged file, or a landed file that was not read to its end, is a problem. Then the erasure stays open, and the same call
    continues it. Raises ArchiveUnavailable, and changes nothing, if there are archive files but no ARCHIVE_URL. Also raises
    PostgresUnavailable, ChunksBusy, psycopg.Error, OSError.
    """
    with closing(connect(settings)) as connection, _alone(connection):
        store = archive_store(settings)
        files = [each for each in archives(connection) if not each.deleted_at]
        if store is None and files:
            raise ArchiveUnavailable(f"ARCHIVE_URL: expected the place of {len(files)} archive files, came none")
        work = _Work(connection, store, user_id, *_begin(connection, user_id))
        work.erase_live_rows()
        for rule in CHUNKED:
            work.erase_chunked(rule)
        work.erase_input("dead_letters")
        work.erase_input("event_conflicts")
        work.erase_landed(settings.landing_url)
        [(counts,)] = connection.execute(
            "select counts from ops.erasures where erasure_id = %s", (work.erasure_id,)
        ).fetchall()
        if not work.problems:
            connection.execute(load("events/erasure/finish_erasure"), {"erasure_id": work.erasure_id})
        log.info("erasure %d as %s: %s", work.erasure_id, work.pseudonym, counts)
        return Erasure(work.pseudonym, counts, work.problems)


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    """One erasure at a time: two of the same user would give two names."""
    with lock_timeout(connection, CHANGE_WAIT_SECONDS, "another erasure is running"):
        connection.execute("select pg_advisory_lock(hashtext('erasure'), 0)")
    yield


def _begin(connection: psycopg.Connection, user_id: str) -> tuple[int, str]:
    """The open erasure of this user, found by a salted hash, or a new one. The id itself is not stored."""
    for erasure_id, pseudonym, salt, proof in connection.execute(
        load("events/erasure/select_open_erasures")
    ).fetchall():
        if secrets.compare_digest(_proof(user_id, salt), proof):
            log.info("erasure %d goes on", erasure_id)
            return erasure_id, pseudonym
    pseudonym, salt = f"erased-{secrets.token_hex(8)}", secrets.token_bytes(16)
    arguments = {"pseudonym": pseudonym, "salt": salt, "proof": _proof(user_id, salt)}
    [(erasure_id,)] = connection.execute(load("events/erasure/insert_erasure"), arguments).fetchall()
    return erasure_id, pseudonym


def _proof(user_id: str, salt: bytes) -> bytes:
    """A slow hash, so that nobody who reads the table can find the id by trying. It is deleted when the erasure is finished."""
    return hashlib.scrypt(user_id.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)


class _Work:
    """The steps of one erasure over one connection."""

    def __init__(
        self,
        connection: psycopg.Connection,
        store: ArchiveStore | None,
        user_id: str,
        erasure_id: int,
        pseudonym: str,
    ) -> None:
        self._connection = connection
        self._store = store
        self._user_id = user_id
        self._who = Spellings(user_id)
        self.erasure_id = erasure_id
        self.pseudonym = pseudonym
        self.problems: list[str] = []

    def erase_live_rows(self) -> None:
        """Erases in events, and in tables of `analytics` with users, in one transaction and while no roll-up reads them.

        A roll-up that sees half of it would write the id back, or rows of both names.
        """
        busy = f"{EVENTS.table}: a roll-up reads it"
        with changing(self._connection, EVENTS.table), self._connection.transaction():
            with lock_timeout(self._connection, CHANGE_WAIT_SECONDS, busy):
                removing(self._connection, EVENTS.table)
            self._erase_rows(EVENTS)
            for (table,) in self._connection.execute(load("events/erasure/select_user_tables")).fetchall():
                if table not in {rule.table for rule in CHUNKED}:
                    self._update(table, compose.SQL(""), ())
        self._update("usage.provider_usage", compose.SQL(""), ())

    def erase_chunked(self, rule: _Rule) -> None:
        """Erases in the rows of a table and in its files under one lock, so that no row moves between them meanwhile."""
        with changing(self._connection, rule.table):
            self._erase_rows(rule)
            if self._store is None:
                return
            delete_leftovers(self._connection, self._store, rule.table)
            for archive in archives(self._connection, table=rule.table):
                if archive.deleted_at:
                    continue
                if archive.restored_at:
                    delete_file(self._connection, self._store, archive)
                    continue
                try:
                    with verified(self._store, archive) as reader:
                        is_in = reader.has("user_id", self._user_id)
                    if is_in:
                        note = self._noting(f"file:{rule.table}")
                        rewrite(self._connection, self._store, archive, self._change(rule), note=note)
                except ArchiveDamaged as damage:
                    self.problems.append(str(damage))

    def erase_input(self, name: str) -> None:
        """Erases in refused or conflicting input, one item at a time: an item may be large."""
        wanted = {"needles": self._who.needles, "may_be_number": self._who.may_be_number}
        rows = self._connection.execute(load(f"events/erasure/find_{name}_of_user"), wanted).fetchall()
        for (number,) in rows:
            with self._connection.transaction():
                row = self._connection.execute(load(f"events/erasure/lock_{name}"), {"number": number}).fetchone()
                if row is None:
                    continue
                raw, raw_format, reason = row
                if name == "dead_letters":
                    erased = erased_letter(raw, raw_format, self._who, self.pseudonym)
                else:
                    erased = erased_json(raw, self._who, self.pseudonym)
                if erased is not None:
                    self._replace_input(name, number, erased, reason)
                    self._note(f"ops.{name}", 1)

    def erase_landed(self, landing_url: str | None) -> None:
        """Deletes files of the landing folder that were read and name the user."""
        if landing_url is not None:
            erased = erase_landed(Landing(landing_url), self._who)
            self._note(f"landed:{DONE}", erased.deleted)
            self.problems.extend(erased.problems)

    # inside

    def _replace_input(self, name: str, number: int, erased: bytes, reason: str) -> None:
        arguments = {"number": number, "raw": erased, "reason": erased_reason(reason)}
        try:
            with self._connection.transaction():
                self._connection.execute(load(f"events/erasure/erase_{name}"), arguments)
        except psycopg.errors.UniqueViolation:
            # Two rows differed only in what is erased. Now they are equal, and one is deleted.
            self._connection.execute(load(f"events/erasure/delete_{name}"), arguments)

    def _erase_rows(self, rule: _Rule) -> None:
        is_hyper = is_hypertable(self._connection, rule.table)
        found = (hypertable_chunks if is_hyper else chunks)(self._connection, rule.table)
        for chunk in found:
            within = compose.SQL(" and {} >= %s and {} < %s").format(*[compose.Identifier(rule.key)] * 2)
            bounds: tuple[object, ...] = (chunk.start, chunk.end)
            if rule.key == "usage_date":
                bounds = (chunk.start.date(), chunk.end.date())
            if rule.removes_rows:
                self._delete(rule.table, within, bounds, is_hyper=is_hyper)
            else:
                self._update(rule.table, within, bounds, rule.cleared, is_hyper=is_hyper)

    def _update(
        self,
        table: str,
        within: compose.Composable,
        bounds: tuple[object, ...],
        cleared: tuple[str, ...] = (),
        *,
        is_hyper: bool = False,
    ) -> None:
        nulls = compose.SQL("").join(compose.SQL(", {} = null").format(compose.Identifier(name)) for name in cleared)
        query = compose.SQL("update {} set user_id = %s{} where user_id = %s{}").format(relation(table), nulls, within)
        self._execute(table, query, (self.pseudonym, self._user_id, *bounds), is_hyper)

    def _delete(self, table: str, within: compose.Composable, bounds: tuple[object, ...], *, is_hyper: bool) -> None:
        query = compose.SQL("delete from {} where user_id = %s{}").format(relation(table), within)
        self._execute(table, query, (self._user_id, *bounds), is_hyper)

    def _execute(self, table: str, query: compose.Composed, arguments: tuple[object, ...], is_hyper: bool) -> None:
        with self._connection.transaction():
            if is_hyper:
                # To change a row, TimescaleDB unpacks the compressed batch that has it. By default it refuses large batches.
                self._connection.execute("set local timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
            self._note(table, self._connection.execute(query, arguments).rowcount)

    def _noting(self, name: str) -> Callable[[int], None]:
        return lambda rows: self._note(name, rows)

    def _note(self, name: str, rows: int) -> None:
        if rows:
            arguments = {"erasure_id": self.erasure_id, "name": name, "rows": rows}
            self._connection.execute(load("events/erasure/add_erasure_count"), arguments)

    def _change(self, rule: _Rule) -> Callable[[list[str], Group], tuple[Group, int]]:
        def change(names: list[str], group: Group) -> tuple[Group, int]:
            users = group[names.index("user_id")]
            places = [place for place, user in enumerate(users) if user == self._user_id]
            if rule.removes_rows:
                gone = set(places)
                return [[value for at, value in enumerate(each) if at not in gone] for each in group], len(places)
            for name, values in zip(names, group, strict=True):
                if name == "user_id" or name in rule.cleared:
                    for place in places:
                        values[place] = self.pseudonym if name == "user_id" else None
            return group, len(places)

        return change
