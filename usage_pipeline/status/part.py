"""A part of the status: one line for people, the same as facts for programs, and how its errors become such a line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
import redis

from usage_pipeline.storage.postgres import PostgresUnavailable, first_line, is_connection_lost
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.texts import shortened

# `down`: nobody knows how this part is.
State = Literal["ok", "look", "down"]
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Part:
    """One line. `facts` are named as JSON has them."""

    name: str
    state: State
    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def read(name: str, question: Callable[[], Part]) -> Part:
    """The part, or a line that says why it could not be read: no part hides another one."""
    try:
        return question()
    except psycopg.errors.QueryCanceled:
        return Part(name, "down", "its query takes too long on this database")
    except psycopg.Error as error:
        said = "PostgreSQL went away" if is_connection_lost(error) else f"PostgreSQL: {first_line(error)}"
        return Part(name, "down", shortened(said, _MOST_CHARACTERS))
    except (PostgresUnavailable, RedisUnavailable, OSError) as error:
        return Part(name, "down", shortened(first_line(error), _MOST_CHARACTERS))
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
        return Part(name, "down", shortened(f"Redis: {first_line(error)}", _MOST_CHARACTERS))


def size(number: int) -> str:
    """Bytes as people read them: `1.2 GB`."""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def span(seconds: float) -> str:
    """A time as people read it: `40 s`, `12 min`, `3 h`, `5 days`."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
