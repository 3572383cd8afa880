"""Where every error of a command ends: one line on standard error that says what to do, and an exit status. No list of errors.

Errors of our own classes were written for the caller. Errors of PostgreSQL, Redis and the system are told by their kind. What
nobody foresaw is a bug: the line says so, and the traceback is in a file.
"""

import hashlib
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from select import POLLERR, poll
from urllib.parse import unquote

import typer

from usage_pipeline.commands.options import unset_servers
from usage_pipeline.settings import load_settings, secret_values
from usage_pipeline.texts import shortened, visible

FAILED = 2
# As a shell has it for a program that Ctrl-C ended, and for one whose reader went away, such as `head`.
INTERRUPTED, UNREAD = 130, 141
_OURS = ("usage_pipeline", "usage_recorder")
_MOST_CHARACTERS = 300
# They have servers of their own.
_LAUNCHERS = (["dev"], ["demo"])
_MOST_ERRORS = 10


def exit_status(work: Callable[[], int]) -> int:
    """Does the work of a command and returns its exit status, whatever happens; an error becomes one line."""
    try:
        status = work()
        # What a full disk refuses is noticed here, and not by the interpreter after the end.
        sys.stdout.flush()
        return status
    except (KeyboardInterrupt, typer.Abort):
        _tell("stopped by Ctrl-C; what was not finished is undone, or is taken up by the next run")
        return INTERRUPTED
    except BrokenPipeError as error:
        if _is_output_unread():
            _forget_output()
            return UNREAD
        _tell(_line(error))
    except Exception as error:
        # A group without a command has printed its help, and says nothing more.
        if line := _line(error):
            _tell(line)
    return FAILED


def _line(error: Exception) -> str:
    """What the caller is told. It never fails: an error in here would hide the one that it is about."""
    try:
        return _explained(error)
    except Exception as another:
        return f"this is a bug in usage-pipeline: {_named(another)}, while it explained {_named(error)}"


def _explained(error: Exception) -> str:
    if _is_of_command_line(error):
        where = getattr(getattr(error, "ctx", None), "command_path", "usage-pipeline")
        said = error.format_message().rstrip(".")  # type: ignore[attr-defined]  # as asked above
        return f"{_in_our_words(said, getattr(error, 'param', None))}. See: {where} --help" if said else ""
    error = _origin(error)
    # One without a message steers our code, and should not have come so far.
    if type(error).__module__.partition(".")[0] in _OURS and str(error):
        return str(error) + _way_out(error)
    return _of_a_server(error) or _of_the_schema() or _of_the_system(error) or _bug(error)


def _in_our_words(said: str, parameter: object) -> str:
    least, most = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if least is not None and most is not None:
        return f"{said.partition(':')[0]}: expected a number from {least:,} to {most:,}"
    return said.replace("Input should be", "expected")


def _origin(error: Exception) -> Exception:
    """SQLAlchemy, with which migrations work, wraps what the driver raised."""
    behind = getattr(error, "orig", None)
    return behind if isinstance(behind, Exception) else error


def _is_of_command_line(error: Exception) -> bool:
    # Typer has a copy of Click in itself, whose classes are private.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _of_a_server(error: Exception) -> str | None:
    import psycopg
    import redis

    from usage_pipeline.storage.postgres import first_line, is_mended_by_time

    said = shortened(first_line(error), _MOST_CHARACTERS)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return (
            f"PostgreSQL: {said}; the role of DATABASE_URL may not do this: take that of the owner of the database. If it "
            "should be allowed, run as the owner: usage-pipeline migrate"
        )
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return f"PostgreSQL: {said}; the server is a standby or read-only now: name the primary in DATABASE_URL"
    if isinstance(error, psycopg.Error) and is_mended_by_time(error):
        return (
            f"PostgreSQL: {said}; what was not finished is undone: when the server is well again, run the command again"
        )
    if isinstance(error, psycopg.DataError) and _of_the_schema() is None:
        return f"PostgreSQL cannot take a value: {said}"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return (
            f"Redis: {said}; the user of REDIS_URL may not do this: docs/operations.md lists the rights that it needs"
        )
    if isinstance(error, redis.RedisError | redis.exceptions.RedisClusterException):
        return f"Redis: {said}; when the server is well again, run the command again"
    return None


def _of_the_schema() -> str | None:
    """An older schema lets almost any statement fail, in almost any way."""
    from usage_pipeline.status.schema import schema_fault

    return None if sys.argv[1:2] in _LAUNCHERS else schema_fault(load_settings())


def _of_the_system(error: Exception) -> str | None:
    if not isinstance(error, OSError):
        return None
    said = error.strerror or str(error) or type(error).__name__
    files = [os.fsdecode(one) for one in (error.filename, error.filename2) if isinstance(one, str | bytes)]
    if files:
        return f"{' and '.join(files)}: {said}; see to the file, its rights or the room on its disk, then run the command again"
    return f"the system refuses: {said}; see to the disk, the network or the file that the output goes to"


def _bug(error: Exception) -> str:
    return (
        f"this is a bug in usage-pipeline {version('usage-pipeline')}: {_named(error)}{_place(error)}. Please report it, with "
        f"the traceback in {_kept(error)}"
    )


def _named(error: BaseException) -> str:
    """Its class and the first line of what it says, without passwords. Further lines may hold a whole row."""
    try:
        said = (str(error).strip().splitlines() or [""])[0]
    except Exception:
        # Some classes of libraries have no text before they are complete.
        said = ""
    return _without_secrets(shortened(f"{type(error).__name__}: {said}".removesuffix(": "), _MOST_CHARACTERS))


def _place(error: Exception) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "usage_pipeline" in frame.filename]
    return f" (at {Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""


def _kept(error: Exception) -> str:
    """The file with the traceback. The same bug has the same file, so that a command that fails each minute fills no disk."""
    text = "".join(_trace(error))
    mark = hashlib.sha256(f"{type(error)}{_place(error)}".encode()).hexdigest()[:8]
    path = Path(tempfile.gettempdir(), f"usage-pipeline-bug-{os.getuid()}-{mark}.txt")
    try:
        # For the user alone, and never into a file or a link that somebody else has put there.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        pass
    except OSError as refusal:
        return f"a file, which could not be written: {refusal.strerror} ({path.parent})"
    return str(path)


def _trace(error: BaseException) -> Iterator[str]:
    """Lines of code and classes of errors, from the last one back. No arguments and no variables: they may be secret."""
    yield f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} usage-pipeline {version('usage-pipeline')}, {platform.python_version()}\n"
    behind: BaseException | None = error
    for _ in range(_MOST_ERRORS):
        if behind is None:
            return
        yield f"\n{_named(behind)}\n"
        yield _without_secrets("".join(traceback.format_tb(behind.__traceback__)))
        behind = behind.__cause__ or behind.__context__


def _without_secrets(text: str) -> str:
    for secret in secret_values(os.environ):
        for written in {secret, unquote(secret)}:
            text = text.replace(written, "…")
    return text


def _way_out(error: Exception) -> str:
    """What a newcomer forgets in a second terminal; empty where servers are named, or `dev` or the demo is what failed."""
    from usage_pipeline.drain.rounds import DrainImpossible
    from usage_pipeline.storage.postgres import PostgresUnavailable
    from usage_pipeline.storage.redis import RedisUnavailable

    if not isinstance(error, DrainImpossible | PostgresUnavailable | RedisUnavailable) or sys.argv[1:2] in _LAUNCHERS:
        return ""
    note = unset_servers(load_settings())
    return f". {note}" if note else ""


def _tell(line: str) -> None:
    # Where nobody reads it, the status tells.
    with suppress(OSError):
        print(f"usage-pipeline: {visible(line)}", file=sys.stderr, flush=True)


def _is_output_unread() -> bool:
    """Whether it is standard output whose reader is gone, and not the connection to a server."""
    try:
        look = poll()
        look.register(sys.stdout.fileno(), 0)
        return any(event & POLLERR for _, event in look.poll(0))
    except (OSError, ValueError):
        return False


def _forget_output() -> None:
    """What is left in its buffer would fail once more when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
