"""Erasure of a user: prompts, archives and free-form members are removed, a pseudonym replaces the id, counts stay.

One erasure uses the same name everywhere, so that the number of distinct users stays. With ERASURE_SECRET a later erasure of
the same person uses it again, and windows that knew both names are made anew. Each step is a transaction that also
notes its counts, and does nothing when it is repeated: an erasure that was cut short goes on where it stopped. Events of the
user that come after their table was done are new input.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import psycopg
import redis
from psycopg import sql as compose
from psycopg.types.json import Jsonb
from usage_recorder import keys as recorder_keys

from usage_pipeline.events.erasure.landed_files import erase_landed
from usage_pipeline.events.erasure.names import near_spellings, pseudonym_of
from usage_pipeline.events.erasure.refused_input import (
    erased_correction,
    erased_json,
    erased_letter,
    erased_reason,
    erased_text,
    without_free_text,
    without_unknown_fields,
)
from usage_pipeline.events.erasure.spellings import Spellings, members_of
from usage_pipeline.events.ingest.members import identity
from usage_pipeline.events.ingest.model import LANDING
from usage_pipeline.events.landing.folder import BROKEN, DONE, Landing
from usage_pipeline.redis_keys import BUDGET_SCOPES, token_cache
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import delete_file, delete_leftovers, verified
from usage_pipeline.storage.archives.manifest import Archive, archives
from usage_pipeline.storage.archives.parquet import Group, ParquetReader
from usage_pipeline.storage.archives.rewrite import rewrite
from usage_pipeline.storage.archives.store import ArchiveDamaged, ArchiveStore, ArchiveUnavailable, archive_store
from usage_pipeline.storage.chunks.locks import CHANGE_WAIT_SECONDS, changing, lock_timeout, removing
from usage_pipeline.storage.chunks.partitions import chunks
from usage_pipeline.storage.lifecycle.timescale import hypertable_chunks
from usage_pipeline.storage.postgres import connect, first_line
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.storage.redis_cluster import server_or_cluster
from usage_pipeline.storage.sql import composed, load, relation
from usage_pipeline.storage.timescale import is_hypertable
from usage_pipeline.values import Malformed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A table in chunks along `key`. The user's rows are removed, or get the pseudonym and lose the `cleared` columns.

    Their hashes in `registry` are forgotten: whoever has the rest of an event could find the id by trying. Their ids stay
    there, so that an erased event that is sent again is a duplicate.
    """

    table: str
    key: str
    cleared: tuple[str, ...] = ()
    removes_rows: bool = False
    registry: str | None = None


# What a client wrote as it liked, its own id too: a person may be named in it. Ids of API keys stay, as in their totals.
EVENTS = _Rule(
    "analytics.usage_events",
    "event_time",
    ("prompt", "extra", "tags", "external_id"),
    registry="analytics.usage_event_ids",
)
ARCHIVES = _Rule(
    "analytics.message_archives", "event_time", removes_rows=True, registry="analytics.message_archive_ids"
)
# Archives come after events: those of erased events go, whoever sent them.
CHUNKED = (
    EVENTS,
    ARCHIVES,
    _Rule("raw.request_events", "usage_date", ("extra",), registry="raw.request_event_ids"),
    _Rule("raw.provider_deltas", "usage_date", ("extra",)),
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What all attempts of an erasure did: rows by table. `problems` are files that could not be rewritten.

    If nothing had the id: `was_erased_before` tells that an earlier erasure used the same pseudonym, and `near_spellings` are
    ids that exist and differ only in case, Unicode composition or space.
    """

    pseudonym: str
    counts: dict[str, int]
    problems: list[str] = field(default_factory=list)
    was_erased_before: bool = False
    near_spellings: list[str] = field(default_factory=list)

    @property
    def is_found(self) -> bool:
        """Whether something had the id, now or before."""
        return bool(self.counts or self.problems or self.was_erased_before)


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
        work = _Work(connection, store, user_id, settings, *_begin(connection, user_id, settings))
        work.erase_live_rows()
        work.erase_bindings(settings)
        work.erase_budgets(settings)
        for rule in CHUNKED:
            work.erase_chunked(rule)
            if rule is EVENTS:
                work.erase_corrected_events()
        work.erase_input("dead_letters")
        work.erase_input("event_conflicts")
        work.erase_refused_archives()
        work.erase_refused_members()
        work.erase_corrections()
        work.erase_discards()
        work.forget_hashes()
        work.erase_landed_reasons()
        work.erase_landed(settings.landing_url)
        [(counts,)] = connection.execute(
            "select counts from ops.erasures where erasure_id = %s", (work.erasure_id,)
        ).fetchall()
        if not work.problems:
            connection.execute(load("events/erasure/finish_erasure"), {"erasure_id": work.erasure_id})
        if counts:
            log.info("erasure %d as %s: %s", work.erasure_id, work.pseudonym, counts)
        return work.told(counts)


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    """One erasure at a time: two of the same user would give two names."""
    with lock_timeout(connection, CHANGE_WAIT_SECONDS, "another erasure is running"):
        connection.execute("select pg_advisory_lock(hashtext('erasure'), 0)")
    yield


def _begin(connection: psycopg.Connection, user_id: str, settings: Settings) -> tuple[int, str]:
    """The open erasure of this user, found by a salted hash, or a new one. The id itself is not stored."""
    for erasure_id, pseudonym, salt, proof in connection.execute(
        load("events/erasure/select_open_erasures")
    ).fetchall():
        if secrets.compare_digest(_proof(user_id, salt), proof):
            log.info("erasure %d goes on", erasure_id)
            return erasure_id, pseudonym
    pseudonym, salt = pseudonym_of(user_id, settings.erasure_secret), secrets.token_bytes(16)
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
        settings: Settings,
        erasure_id: int,
        pseudonym: str,
    ) -> None:
        self._connection = connection
        self._store = store
        self._user_id = user_id
        self._who = Spellings(user_id)
        self._names = {"user_id": user_id, "pseudonym": pseudonym}
        self._timezone = settings.usage_timezone
        self.erasure_id = erasure_id
        self.pseudonym = pseudonym
        self.problems: list[str] = []
        connection.execute(load("events/erasure/stage_erased_event"))

    def erase_live_rows(self) -> None:
        """Erases in events, and in tables of `analytics` with users, in one transaction and while no roll-up reads them.

        A roll-up that sees half of it would write the id back, or rows of both names.
        """
        busy = f"{EVENTS.table}: a roll-up reads it"
        with changing(self._connection, EVENTS.table), self._connection.transaction():
            with lock_timeout(self._connection, CHANGE_WAIT_SECONDS, busy):
                removing(self._connection, EVENTS.table)
            common = {**self._names, "timezone": self._timezone}
            self._connection.execute(load("events/erasure/touch_common_windows"), common)
            self._erase_rows(EVENTS)
            [(merged,)] = self._connection.execute(load("events/erasure/merge_user_days"), self._names).fetchall()
            self._note("analytics.usage_user_daily", merged)
            [(renamed,)] = self._connection.execute(load("events/erasure/rename_tag_values"), self._names).fetchall()
            self._note("analytics.usage_tag_daily", renamed)
            forget = "delete from analytics.usage_user_team_daily where user_id in (%(user_id)s, %(pseudonym)s)"
            self._connection.execute(forget, self._names)
            for (table,) in self._connection.execute(load("events/erasure/select_user_tables")).fetchall():
                if table not in {rule.table for rule in CHUNKED}:
                    self._change_rows(_Rule(table, ""))
            summed = self._connection.execute(load("events/erasure/sum_user_teams"), self._names)
            self._note("analytics.usage_user_team_daily", summed.rowcount)
        with self._connection.transaction():
            self._change_rows(_Rule("usage.provider_usage", ""))

    def erase_bindings(self, settings: Settings) -> None:
        """Erases in what tokens are bound to, and deletes their cached copies."""
        found = self._connection.execute(load("events/erasure/select_bound_tokens"), self._names).fetchall()
        for (prefix,) in found:
            with self._connection.transaction():
                # As for a revocation: nobody caches meanwhile what was read before.
                self._connection.execute(load("access/lock_api_access_token"), {"token_prefix": prefix})
                arguments = {**self._names, "token_prefix": prefix}
                done = self._connection.execute(load("events/erasure/rename_bound_user"), arguments)
                self._note("usage.api_access_tokens", done.rowcount)
        if found:
            try:
                with server_or_cluster(settings) as pooled:
                    for (prefix,) in found:
                        pooled.delete(token_cache(prefix))
            except (redis.RedisError, redis.exceptions.RedisClusterException, RedisUnavailable, OSError) as error:
                log.warning("cached copies of tokens are not deleted, and end within minutes: %s", first_line(error))

    def erase_budgets(self, settings: Settings) -> None:
        """Deletes the user's budgets, and what gateways read of them. Without Redis the next evaluation of alerts does that."""
        with self._connection.transaction():
            [(gone,)] = self._connection.execute(load("events/erasure/delete_budgets"), self._names).fetchall()
            self._note("ops.budgets", gone)
        scope = f"user={self._user_id}"
        try:
            with server_or_cluster(settings) as pooled:
                pooled.unlink(recorder_keys.budget(scope))
                pooled.srem(BUDGET_SCOPES, scope)
        except (redis.RedisError, redis.exceptions.RedisClusterException, RedisUnavailable, OSError) as error:
            log.warning("published budgets of the user are not deleted yet: %s", first_line(error))

    def erase_chunked(self, rule: _Rule) -> None:
        """Erases in the rows of a table and in its files under one lock, so that no row moves between them meanwhile."""
        with changing(self._connection, rule.table):
            self._erase_rows(rule)
            if rule is EVENTS:
                self._connection.execute(load("events/erasure/stage_erased_rows"), {"pseudonym": self.pseudonym})
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
                    self._erase_file(self._store, rule, archive)
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

    def erase_refused_archives(self) -> None:
        """Removes the texts of archives that were refused or kept out, and belong to erased events, whoever sent them."""
        for name, found in (("dead_letters", "find_archive_letters"), ("event_conflicts", "find_archive_conflicts")):
            for (number,) in self._connection.execute(load(f"events/erasure/{found}")).fetchall():
                with self._connection.transaction():
                    row = self._connection.execute(load(f"events/erasure/lock_{name}"), {"number": number}).fetchone()
                    if row is None or (name == "dead_letters" and not self._is_of_erased_event(row[0])):
                        continue
                    if (erased := without_free_text(row[0])) is not None:
                        self._replace_input(name, number, erased, row[2])
                        self._note(f"ops.{name}", 1)

    def erase_refused_members(self) -> None:
        """Removes free text from dead letters of members. They name the key or the event, and not the user."""
        wanted = {"pseudonym": self.pseudonym}
        for (number,) in self._connection.execute(load("events/erasure/find_member_letters"), wanted).fetchall():
            with self._connection.transaction():
                row = self._connection.execute(load("events/erasure/lock_dead_letters"), {"number": number}).fetchone()
                if row is None:
                    continue
                raw, raw_format, reason = row
                if raw_format == "string" and not self._is_of_erased_request(raw):
                    continue
                erased = without_free_text(raw) if raw_format == "string" else without_unknown_fields(raw)
                if erased is not None:
                    self._replace_input("dead_letters", number, erased, reason)
                    self._note("ops.dead_letters", 1)

    def erase_corrected_events(self) -> None:
        """Forgets earlier versions of events, and events that were taken out. Before the texts that go with an erased event."""
        with self._connection.transaction():
            self._connection.execute(load("events/erasure/erase_corrected_events"), self._names)

    def erase_corrections(self) -> None:
        """Erases in what people put right by hand, and in their reasons."""
        self._erase_corrections("%", is_theirs=False)

    def erase_discards(self) -> None:
        """Erases in the reasons for which dead letters were discarded."""
        for (reason,) in self._connection.execute(load("events/erasure/select_discard_reasons")).fetchall():
            erased = erased_text(reason, self._who, self.pseudonym)
            if erased != reason:
                with self._connection.transaction():
                    arguments = {"reason": reason, "erased": erased}
                    done = self._connection.execute(load("events/erasure/erase_discard_reasons"), arguments)
                    self._note("ops.dead_letters", done.rowcount)

    def forget_hashes(self) -> None:
        """Forgets the hashes that conflicts keep of what is erased."""
        self._connection.execute(load("events/erasure/forget_conflict_hashes"))
        self._connection.execute(load("events/erasure/forget_reason_hashes"))

    def erase_landed_reasons(self) -> None:
        """Erases in the reasons why landed files are broken or were not read."""
        for (reason,) in self._connection.execute(load("events/erasure/select_landed_reasons")).fetchall():
            erased = erased_text(reason, self._who, self.pseudonym)
            if erased != reason:
                with self._connection.transaction():
                    arguments = {"reason": reason, "erased": erased}
                    query = load("events/erasure/erase_landed_reasons")
                    [(files, faults)] = self._connection.execute(query, arguments).fetchall()
                    self._note("ops.landed_files", files)
                    self._note("ops.landing_faults", faults)

    def erase_landed(self, landing_url: str | None) -> None:
        """Deletes files of the landing folder that were read and name the user, and erases in reasons beside broken ones."""
        if landing_url is not None:
            erased = erase_landed(Landing(landing_url), self._who, self.pseudonym)
            self._note(f"landed:{DONE}", erased.deleted)
            self._note(f"landed:{BROKEN}", erased.reasons)
            self.problems.extend(erased.problems)

    def told(self, counts: dict[str, int]) -> Erasure:
        """The result. If nothing had the id, it says what may be meant."""
        erasure = Erasure(self.pseudonym, counts, self.problems)
        if erasure.is_found:
            return erasure
        wanted = {"pseudonym": self.pseudonym, "erasure_id": self.erasure_id}
        if self._connection.execute(load("events/erasure/find_finished_erasure"), wanted).fetchone():
            return replace(erasure, was_erased_before=True)
        return replace(erasure, near_spellings=near_spellings(self._connection, self._user_id))

    # inside

    def _replace_input(self, name: str, number: int, erased: bytes, reason: str) -> None:
        arguments = {"number": number, "raw": erased, "reason": erased_reason(reason)}
        if name == "dead_letters":
            self._erase_corrections(f"dead letter {number}", is_theirs=True)
        try:
            with self._connection.transaction():
                self._connection.execute(load(f"events/erasure/erase_{name}"), arguments)
        except psycopg.errors.UniqueViolation:
            # Two rows differed only in what is erased. Now they are equal, and one is deleted.
            self._connection.execute(load(f"events/erasure/delete_{name}"), arguments)

    def _erase_corrections(self, subject: str, *, is_theirs: bool) -> None:
        with self._connection.transaction():
            rows = self._connection.execute(load("events/erasure/lock_corrections"), {"subject": subject}).fetchall()
            for number, *came in rows:
                reason, before, after = came
                erased = [
                    erased_text(reason, self._who, self.pseudonym),
                    *(
                        erased_correction(values, self._who, self.pseudonym, is_theirs=is_theirs)
                        for values in (before, after)
                    ),
                ]
                if erased != came:
                    names = ("reason", "before", "after")
                    values = dict(zip(names, (erased[0], *map(Jsonb, erased[1:])), strict=True))
                    self._connection.execute(load("events/erasure/erase_correction"), {"number": number, **values})
                    self._note("ops.corrections", 1)

    def _is_of_erased_event(self, raw: bytes) -> bool:
        return self._has_event_id(raw, "select 1 from erased_event where event_id = %s")

    def _is_of_erased_request(self, raw: bytes) -> bool:
        # Only an erased one has no hash.
        return self._has_event_id(
            raw, "select 1 from raw.request_event_ids where event_id = %s and payload_hash is null"
        )

    def _has_event_id(self, raw: bytes, query: str) -> bool:
        members = dict(members_of(raw) or ())
        try:
            known = identity(members["event_id"], members.get("source"), LANDING)
            found = self._connection.execute(query, (known.event_id,))
        except (AttributeError, KeyError, TypeError, ValueError, Malformed):
            return False
        return found.fetchone() is not None

    def _erase_rows(self, rule: _Rule) -> None:
        is_hyper = is_hypertable(self._connection, rule.table)
        found = (hypertable_chunks if is_hyper else chunks)(self._connection, rule.table)
        for chunk in found:
            bounds: tuple[object, object] = (chunk.start, chunk.end)
            if rule.key == "usage_date":
                bounds = (chunk.start.date(), chunk.end.date())
            with self._connection.transaction():
                if is_hyper:
                    # To change a row, TimescaleDB unpacks the compressed batch that has it. By default it refuses large ones.
                    self._connection.execute("set local timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
                self._change_rows(rule, bounds)

    def _change_rows(self, rule: _Rule, bounds: tuple[object, object] | None = None) -> None:
        """Erases in the rows of a table, all or those between the bounds, in the caller's transaction."""
        within: compose.Composable = compose.SQL("")
        if bounds:
            within = compose.SQL(" and {0} >= %(first)s and {0} < %(until)s").format(compose.Identifier(rule.key))
        name = "rename_rows"
        if rule.registry:
            name = "delete_registered_rows" if rule.removes_rows else "rename_registered_rows"
        query = composed(
            f"events/erasure/{name}",
            table=relation(rule.table),
            registry=relation(rule.registry or ""),
            cleared=compose.SQL("").join(
                compose.SQL(", {} = null").format(compose.Identifier(each)) for each in rule.cleared
            ),
            within=within,
        )
        first, until = bounds or (None, None)
        arguments = {**self._names, "first": first, "until": until}
        [(rows,)] = self._connection.execute(query, arguments).fetchall()
        self._note(rule.table, rows)

    def _erase_file(self, store: ArchiveStore, rule: _Rule, archive: Archive) -> None:
        ids: set[str] = set()
        if rule is ARCHIVES:
            span = {"first": archive.chunk_start, "until": archive.chunk_end}
            ids = {event_id for (event_id,) in self._connection.execute(load("events/erasure/select_erased_ids"), span)}
        with verified(store, archive) as reader:
            is_in = reader.has("user_id", [self._user_id]) or (bool(ids) and reader.has("event_id", ids))
            times: dict[str, list[int]] = {}
            if rule is EVENTS and (is_in or reader.has("user_id", [self.pseudonym])):
                times = self._stage_erased(reader)
        if not is_in:
            return
        forgotten: list[str] = []

        def note(rows: int) -> None:
            self._note(f"file:{rule.table}", rows)
            if times.get(self.pseudonym):
                known = {"theirs": times[self._user_id], "known": times[self.pseudonym], "timezone": self._timezone}
                self._connection.execute(load("events/erasure/touch_common_hours"), known)
            if rule.registry:
                query = composed("events/erasure/forget_hashes", registry=relation(rule.registry))
                self._connection.execute(query, {"event_ids": forgotten})

        rewrite(self._connection, store, archive, self._change(rule, ids, forgotten), note=note)

    def _stage_erased(self, reader: ParquetReader) -> dict[str, list[int]]:
        """Notes the events of both names in a file: an attempt before this one may have renamed some. Returns their times."""
        found: dict[str, list[int]] = {name: [] for name in self._names.values()}
        for users, event_ids, times in reader.columns("user_id", "event_id", "event_time"):
            places = [place for place, user in enumerate(users) if user in found]
            arguments = {"event_ids": [event_ids[at] for at in places], "times": [times[at] for at in places]}
            self._connection.execute(load("events/erasure/stage_erased_ids"), arguments)
            for place in places:
                found[users[place]].append(times[place])
        return found

    def _note(self, name: str, rows: int) -> None:
        if rows:
            arguments = {"erasure_id": self.erasure_id, "name": name, "rows": rows}
            self._connection.execute(load("events/erasure/add_erasure_count"), arguments)

    def _change(
        self, rule: _Rule, ids: set[str], forgotten: list[str]
    ) -> Callable[[list[str], Group], tuple[Group, int]]:
        """What `rewrite` does with a group. `ids` are events whose rows go, too. `forgotten` gets the ids of changed rows."""

        def change(names: list[str], group: Group) -> tuple[Group, int]:
            users = group[names.index("user_id")]
            events: list[str] = group[names.index("event_id")] if rule.registry else [""] * len(users)
            places = [
                place
                for place, (user, event_id) in enumerate(zip(users, events, strict=True))
                if user == self._user_id or event_id in ids
            ]
            if rule.registry:
                forgotten.extend(events[place] for place in places)
            if rule.removes_rows:
                gone = set(places)
                return [[value for at, value in enumerate(each) if at not in gone] for each in group], len(places)
            for name, values in zip(names, group, strict=True):
                if name == "user_id" or name in rule.cleared:
                    for place in places:
                        values[place] = self.pseudonym if name == "user_id" else None
            return group, len(places)

        return change
