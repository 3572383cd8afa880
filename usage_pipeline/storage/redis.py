"""Connections to Redis: pooled clients for single commands, and pinned connections for the drain's protocol."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from types import TracebackType
from typing import Any, Protocol

import hiredis
import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _HiredisParser
from redis.backoff import NoBackoff
from redis.retry import Retry
from usage_recorder import sentinel

from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted

log = logging.getLogger(__name__)

Command = Sequence[bytes | str | int]

# What writers put where a count, a time or an id belongs may be of any length. What is longer than this is none of them.
LONGEST_VALUE_BYTES = 65_536
# An answer of SCAN or SSCAN may have ten thousand names, and a writer may give a key a name of 500 MB. This script leaves out
# those that are too long for any counter, and tells the bytes of all: Redis holds them several times while it runs.
_LARGEST_PAGE_BYTES = 4 * 2**20
FIRST_NAMES = 64
SHORT_NAMES = """\
local words = {ARGV[1], KEYS[1]}
for number = 2, #ARGV do
  words[#words + 1] = ARGV[number]
end
local found = redis.pcall(unpack(words))
if found.err then
  return found
end
local bytes, names = 0, {}
for _, name in ipairs(found[2]) do
  bytes = bytes + #name
  if #name <= 4096 then
    names[#names + 1] = name
  end
end
return {found[1], names, #found[2] - #names, bytes}
"""

# What a node of a Redis Cluster answers when it does not serve the key's slot, or not at the moment: MOVED, ASK, TRYAGAIN,
# CLUSTERDOWN. The command was not carried out.
SLOT_ELSEWHERE = (redis.exceptions.AskError, redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError)


def next_count(count: int, page_bytes: int) -> int:
    """How many names the next page may look at, after one of `count` names whose bytes SHORT_NAMES told."""
    return max(1, count // 4) if page_bytes > _LARGEST_PAGE_BYTES else count * 4


class RedisUnavailable(Exception):
    """Redis does not answer. The message is one line without secrets."""


def client(settings: Settings) -> redis.Redis:
    """A pooled client that returns bytes. It tries each command once, within `redis_timeout_seconds`.

    Raises RedisUnavailable when it cannot read the URL. It sends nothing yet.
    """
    with suppress(ValueError):
        return redis.Redis.from_pool(
            sentinel.pool(
                settings.redis_dsn.get_secret_value(),
                protocol=2,
                decode_responses=False,
                socket_timeout=settings.redis_timeout_seconds,
                socket_connect_timeout=settings.connect_timeout_seconds,
                retry=Retry(NoBackoff(), 0),
            )
        )
    # redis-py's error shows what it took for the port: a part of the password.
    raise RedisUnavailable("Redis: REDIS_URL cannot be read")


def bulk_strings(arguments: Iterable[bytes]) -> list[bytes]:
    """Arguments as the Redis protocol (RESP) writes them, for use in several commands."""
    return [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]


def command(*words: bytes, arguments: Sequence[bytes] = ()) -> bytes:
    """One packed command, from its words and from arguments that are bulk strings already."""
    return b"*%d\r\n%b" % (len(words) + len(arguments), b"".join((*bulk_strings(words), *arguments)))


def one_by_one(words: Sequence[bytes], arguments: Sequence[bytes], options: Sequence[bytes] = ()) -> bytes:
    """For each argument one packed command: the words, the argument, the options. The arguments are bulk strings already,
    at least one.
    """
    count = len(words) + 1 + len(options)
    beginning, end = b"*%d\r\n%b" % (count, b"".join(bulk_strings(words))), b"".join(bulk_strings(options))
    return beginning + (end + beginning).join(arguments) + end


class _ParserOfMany(_HiredisParser):
    """Returns `replies_at_once` replies in one list, errors included. redis-py's connection asks for each reply alone.

    Asking alone costs more than parsing, and a drain has hundreds of thousands of replies.
    """

    replies_at_once: int | None = None

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        if self.replies_at_once is None:
            return super().read_response(*arguments, **options)
        get, replies = self._reader.gets, list[Any]()
        while len(replies) < self.replies_at_once:
            while (reply := get(False)) is NOT_ENOUGH_DATA:
                self.read_from_socket()  # type: ignore[no-untyped-call]  # redis-py gives it no types
            if isinstance(reply, redis.ConnectionError):
                # The server says that it cannot serve this connection: it is loading, or its primary is down.
                raise reply
            replies.append(reply)
        return replies


class PinnedConnection:
    """One connection to one Redis server that is never silently replaced.

    The drain waits until what it wrote on this connection is durable. A new connection has written nothing, so waiting on it
    would end at once and prove nothing. So after the first failure every further use raises RedisUnavailable.
    """

    def __init__(self, pooled: redis.Redis) -> None:
        pool = pooled.connection_pool
        # RESP2 whatever the pool speaks: the drain reads hashes as flat lists.
        ours = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "parser_class": self._make_parser,
        }
        try:
            self._connection = pool.connection_class(**{**pool.connection_kwargs, **ours})
        except (TypeError, ValueError):
            # redis-py takes any parameter of a URL, and passes it on.
            raise RedisUnavailable("Redis: REDIS_URL has an unknown parameter, or one with a wrong value") from None
        # How many names a page of each set, or of all keys, looks at.
        self._counts: dict[str, int] = {}
        self._is_usable = True
        try:
            self._connection.connect()
        except (redis.RedisError, OSError) as error:
            self._is_usable = False
            raise RedisUnavailable(f"Redis does not answer: {error}") from None

    def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Sends the commands in one piece and returns one reply for each. An error of a command is returned, not raised.

        Raises RedisUnavailable when the connection fails. Then nobody knows which commands were carried out.
        """
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]  # its stub means `...`
        return self.replies(b"".join(packed), len(packed))

    def replies(self, packed: bytes, count: int) -> list[Any]:
        """Like `pipeline`, for `count` packed commands."""
        self.send(packed)
        return self.receive(count)

    def send(self, packed: bytes) -> None:
        """Sends packed commands. More may be sent before their replies are received, in the same order."""
        if not self._is_usable:
            raise RedisUnavailable(
                "Redis: the connection was lost before, and only the one that wrote can check that the writes are durable"
            )
        with self._ending_on_failure():
            self._connection.send_packed_command([packed], check_health=False)

    def receive(self, count: int) -> list[Any]:
        """The next `count` replies, as `pipeline` returns them."""
        if not self._is_usable:
            raise RedisUnavailable("Redis: the connection was lost before")
        with self._ending_on_failure():
            self._parser.replies_at_once = count
            replies: list[Any] = self._connection.read_response(disable_decoding=True)
        return replies

    def _make_parser(self, **options: Any) -> "_ParserOfMany":
        self._parser = _ParserOfMany(**options)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        return self._parser

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.close()
            raise RedisUnavailable(f"Redis: the connection was lost: {error}") from None
        except BaseException:
            # Interrupted between replies: what comes next on this connection would answer the wrong command.
            self.close()
            raise

    def call(self, *command: bytes | str | int) -> Any:
        """One command; raises redis.ResponseError where `pipeline` would return it."""
        [reply] = self.pipeline([command])
        if isinstance(reply, redis.ResponseError):
            raise reply
        return reply

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Keys of the server that match, page by page. A key may come twice."""
        cursor = b"0"
        while True:
            cursor, found = self.scan_page(cursor, pattern, count)
            yield found
            if cursor == b"0":
                return

    def scan_page(self, cursor: bytes, pattern: bytes, most: int) -> tuple[bytes, list[bytes]]:
        """The next cursor, and keys of the server that match, of `most` that it looks at. As SHORT_NAMES finds them."""
        return self._names("SCAN", most, 0, "SCAN", cursor, "MATCH", pattern)

    def members_page(self, name: str, cursor: bytes, most: int) -> tuple[bytes, list[bytes]]:
        """The next cursor, and members of a set, as SHORT_NAMES finds them. Raises redis.ResponseError."""
        return self._names(name, most, 1, name, "SSCAN", cursor)

    def _names(self, where: str, most: int, keys: int, *words: bytes | str | int) -> tuple[bytes, list[bytes]]:
        """A page. Few names are looked at first, and more where they are short."""
        count = min(most, self._counts.get(where, FIRST_NAMES))
        cursor, found, left_out, size = self.call("EVAL", SHORT_NAMES, keys, *words, "COUNT", count)
        self._counts[where] = next_count(count, size)
        if left_out:
            log.warning("Redis: %s passed over: too long for any counter", counted(left_out, "name is", "names are"))
        return cursor, found

    def now_ms(self) -> int:
        """The server's clock in epoch milliseconds."""
        seconds, microseconds = self.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def close(self) -> None:
        self._is_usable = False
        self._connection.disconnect()

    def __enter__(self) -> "PinnedConnection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pipelined(Protocol):
    """A server, or a cluster behind ClusterReader."""

    def pipeline(self, commands: list[Command], /) -> list[Any]: ...


def short_fields(reader: Pipelined, asked: Sequence[tuple[bytes | str, tuple[bytes | str, ...]]]) -> list[Any]:
    """The values of these fields of each hash, as HMGET answers. One longer than LONGEST_VALUE_BYTES comes as `(N bytes)`."""
    if not asked:
        return []
    lengths = reader.pipeline([("HSTRLEN", name, field) for name, fields in asked for field in fields])
    sizes = iter([length if isinstance(length, int) else 0 for length in lengths])
    long = [[size if size > LONGEST_VALUE_BYTES else 0 for size in islice(sizes, len(fields))] for _, fields in asked]
    # In place of a long one, a field that nobody has.
    answers = reader.pipeline(
        [
            ("HMGET", name, *(b"" if size else field for field, size in zip(fields, too_long, strict=True)))
            for (name, fields), too_long in zip(asked, long, strict=True)
        ]
    )
    for answer, too_long in zip(answers, long, strict=True):
        if isinstance(answer, list):
            answer[:] = [b"(%d bytes)" % size if size else value for value, size in zip(answer, too_long, strict=True)]
    return answers
