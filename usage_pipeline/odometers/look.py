"""Looks at the odometers in Redis and notes them in PostgreSQL, which remembers them when Redis comes back with an old file."""

import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import date

import psycopg
import redis
from usage_recorder import keys as recorder_keys
from usage_recorder.commands import ODOMETER_TTL_SECONDS

from usage_pipeline.odometers.lives import MEASURES, Life, Odometer, Reading, change, reading_of, seen
from usage_pipeline.storage.redis import PinnedConnection, short_fields
from usage_pipeline.storage.redis_cluster import ClusterReader
from usage_pipeline.storage.sql import load

Place = tuple[str, date]
_log = logging.getLogger(__name__)


def look_at(
    postgres: psycopg.Connection,
    reader: PinnedConnection | ClusterReader,
    days: Collection[date],
    families: Collection[str] = tuple(MEASURES),
) -> dict[Place, Odometer]:
    """Reads these odometers, notes how they changed, and names new lives in Redis. Returns those that are or were there.

    The connection to PostgreSQL is in autocommit mode, or in a transaction that keeps other looks waiting until it ends. One
    odometer that cannot be read is told as its `problem`. Raises redis.RedisError when Redis refuses to read at all, as while
    it loads its file: that must not look like an odometer of 0.
    """
    places = [(family, day) for family in families for day in days]
    if not places:
        return {}
    with postgres.transaction():
        # Before Redis is read: otherwise an older reading could be noted later, and look like a fall.
        postgres.execute("select pg_advisory_xact_lock(hashtext('odometers'), 0)")
        readings = _read(reader, places)
        known = _known(postgres, days, families)
        after = {
            place: seen(known.get(place, Odometer()), readings[place], _new_life)
            for place in places
            if place in known or readings[place] is not None
        }
        marked = _named(reader, after)
        changed = {place: one for place, one in marked.items() if one != known.get(place)}
        _note(postgres, known, changed)
    return marked


def _new_life(base: int) -> str:
    """A new name for the life of an odometer that counts `base` when it begins."""
    return f"{base}-{secrets.token_hex(6)}"


def _read(reader: PinnedConnection | ClusterReader, places: Sequence[Place]) -> dict[Place, Reading | str | None]:
    asked = [
        (recorder_keys.recorded(family, day), (MEASURES[family], recorder_keys.ODOMETER_LIFE)) for family, day in places
    ]
    answers = short_fields(reader, asked)
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not str(answer).startswith("WRONGTYPE"):
            raise answer
    return {place: reading_of(answer) for place, answer in zip(places, answers, strict=True)}


def _known(postgres: psycopg.Connection, days: Collection[date], families: Collection[str]) -> dict[Place, Odometer]:
    arguments = {"days": list(days), "families": list(families)}
    lives: dict[Place, dict[str, Life]] = {}
    for family, day, life, base, counted in postgres.execute(load("odometers/select_lives"), arguments):
        lives.setdefault((family, day), {})[life] = Life(int(base), int(counted))
    rows = postgres.execute(load("odometers/select_odometers"), arguments)
    return {
        (family, day): Odometer(int(counted), life, mark, lives.get((family, day), {}), problem)
        for family, day, counted, life, mark, problem in rows
    }


def _named(reader: PinnedConnection | ClusterReader, after: Mapping[Place, Odometer]) -> dict[Place, Odometer]:
    """Writes the names of lives that Redis does not show. Where it refuses, a life is told by its count alone."""
    new = [place for place, one in after.items() if one.life != one.mark and one.problem is None]
    answers = (
        reader.pipeline(
            [
                command
                for place in new
                for command in (
                    (b"HSET", recorder_keys.recorded(*place), recorder_keys.ODOMETER_LIFE, after[place].life or ""),
                    # It may have expired since it was read; without its time to live it would stay for good.
                    (b"EXPIRE", recorder_keys.recorded(*place), ODOMETER_TTL_SECONDS),
                )
            ]
        )
        if new
        else []
    )
    named = dict(after)
    for place, answer in zip(new, answers[::2], strict=True):
        one = after[place]
        if isinstance(answer, Exception):
            _log.warning("odometers: Redis does not take the name of a life: %s", type(answer).__name__)
        else:
            named[place] = Odometer(one.counted, one.life, one.life, one.lives)
    return named


def _note(postgres: psycopg.Connection, known: Mapping[Place, Odometer], changed: Mapping[Place, Odometer]) -> None:
    odometers, lives = [], []
    for (family, day), one in sorted(changed.items()):
        place = {"family": family, "usage_date": day}
        before = known.get((family, day), Odometer())
        odometers.append(
            {
                **place,
                "counted": one.counted,
                "forgotten": one.forgotten,
                "life": one.life,
                "mark": one.mark,
                "problem": one.problem,
                "change": change(before, one),
            }
        )
        if one.life is not None:
            life = one.lives[one.life]
            lives.append({**place, "life": one.life, "base": life.base, "counted": life.counted})
    with postgres.cursor() as cursor:
        cursor.executemany(load("odometers/upsert_odometer"), odometers)
        cursor.executemany(load("odometers/upsert_life"), lives)
