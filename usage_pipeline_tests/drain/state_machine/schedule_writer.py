"""The foreign writer of random schedules (plain Redis commands, contracts §1.1–1.5): good input, and every kind of bad."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import redis
from usage_recorder import keys as recorder_keys

from usage_pipeline_tests.drain.rig import event_item
from usage_pipeline_tests.drain.state_machine.books import QUEUE, TIME_OF_USE, WRONG_TYPE, Books, Part, event_part

IDS = ("a", "b:c", "{d}e", "f}")
INSTANCES = ("host:1", "host:2")
TROUBLE = ("malformed", "odd member", "wrong type", "huge", "again")
HUGE = 2**62
MAX_COUNT = 2**63 - 1


class ScheduleWriter:
    """Writes while every drainer stands still, and enters it in the books.

    `days_ago`: when it was used. None: now, and counters of API keys and providers do not say.
    """

    def __init__(self, client: redis.Redis, books: Books) -> None:
        self._redis, self.books = client, books
        self.days_ago: int | None = None
        self._serial = 0

    def write(self, family: str, name: str, amount: int, announces: bool = False) -> None:
        client = self._redis
        if family == "event":
            for _ in range(amount):
                self._push(event_item(event_id=self._event_id(), api_key_id=name, at=self._used_at().isoformat()))
            return
        if family == "token":
            key = recorder_keys.token_usage(name, INSTANCES[amount % 2])
            self._add_to_token(key, name, amount, self._used_at().isoformat())
        else:
            key = self._key(family, name)
            requests, size = ("total_requests" if family == "api_key" else "upload_count"), "total_file_size"
            if int(client.hget(key, size) or 0) > MAX_COUNT - 1_000 * amount:
                return
            client.hincrby(key, requests, amount)
            client.hincrby(key, size, amount * 1_000)
            self._tell_time_of_use(key)
            self._remember(family, name, {requests: amount, size: amount * 1_000})
        if announces:
            client.sadd(recorder_keys.touched(family), key)

    def write_trouble(self, family: str, name: str, kind: str) -> None:
        """What must become a dead letter, of the whole or of one member, or for events a duplicate or a conflict."""
        if family == "event":
            self._push_trouble(kind)
        elif kind == "malformed":
            self._write_malformed(family, name)
        elif kind == "odd member":
            self._write_odd_member(family, name)
        elif kind == "huge":
            self._write_huge(family, name)
        else:
            self._write_wrong_type(family)

    def _used_at(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=self.days_ago or 0)

    def _tell_time_of_use(self, key: str) -> None:
        if self.days_ago is not None:
            self._redis.hset(key, TIME_OF_USE, int(self._used_at().timestamp() * 1000))

    def _key(self, family: str, name: str) -> str:
        return (
            recorder_keys.api_key_metrics(name) if family == "api_key" else recorder_keys.provider_metrics(name, "s3")
        )

    def _add_to_token(self, key: str, name: str, amount: int, at: str) -> None:
        present = json.loads(self._redis.get(key) or b'{"usageCount": 0}')["usageCount"]
        if isinstance(present, int) and present + amount <= MAX_COUNT:
            instance = key.removeprefix(f"token_usage:{name}:")
            usage = {"usageCount": present + amount, "lastUsedAt": at, "instanceId": instance}
            self._redis.set(key, json.dumps(usage))
            self._remember("token", name, {"usage_count": amount})

    def _write_malformed(self, family: str, name: str) -> None:
        if family == "token":
            self._add_to_token(recorder_keys.token_usage(name, INSTANCES[0]), name, 1, "never")
        else:
            self._redis.hincrby(self._key(family, name), b"\xff", 1)
            self._remember(family, name, {"\\xff": 1})

    def _write_odd_member(self, family: str, name: str) -> None:
        """A count that cannot be, beside counts that can."""
        if family == "token":
            key = recorder_keys.token_usage(name, INSTANCES[0])
            if not self._redis.exists(key):
                self._redis.set(key, json.dumps({"usageCount": "4", "instanceId": INSTANCES[0]}))
                self._remember("token", name, {"usage_count": 4})
        else:
            self._redis.hincrby(self._key(family, name), "total_file_size", -7_000)
            self._tell_time_of_use(self._key(family, name))
            self._remember(family, name, {"total_file_size": -7_000})

    def _write_huge(self, family: str, name: str) -> None:
        """Twice is more than a total can hold."""
        if family == "token":
            self._add_to_token(recorder_keys.token_usage(name, INSTANCES[0]), name, HUGE, self._used_at().isoformat())
        elif int(self._redis.hget(self._key(family, name), "total_file_size") or 0) < HUGE:
            self._redis.hincrby(self._key(family, name), "total_file_size", HUGE)
            self._tell_time_of_use(self._key(family, name))
            self._remember(family, name, {"total_file_size": HUGE})

    def _write_wrong_type(self, family: str) -> None:
        self._serial += 1
        name = f"wrong {self._serial}"
        if family == "token":
            self._redis.rpush(recorder_keys.token_usage(name, INSTANCES[0]), "text")
        else:
            self._redis.set(self._key(family, name), "text")
        self._remember(family, name, {WRONG_TYPE: 1})

    def _remember(self, family: str, name: str, amounts: dict[str, int]) -> None:
        if family == "provider":
            name = f"{name}:s3"
        self.books.written.update({Part(family, name, field): amount for field, amount in amounts.items()})

    def _push(self, item: bytes) -> None:
        if self._redis.type(QUEUE) != b"string":
            self._redis.rpush(QUEUE, item)
            self.books.pushed[item] += 1

    def _push_trouble(self, kind: str) -> None:
        self._serial += 1
        if kind == "malformed":
            self._push(b"no event %d" % self._serial)
        elif kind == "odd member":
            self._push(event_item(event_id=self._event_id(), at=self._serial))
        elif kind == "again":
            for item in [*self.books.pushed][-2:]:
                self._push(item)
        elif kind == "huge":
            # The same event with another payload.
            for item in [*self.books.pushed][-2:]:
                if part := event_part(item):
                    self._push(event_item(event_id=part.name, file_size=1_000 + self._serial))
        elif self._redis.set(QUEUE, b"text %d" % self._serial, nx=True):
            self.books.pushed[b"wrong type text %d" % self._serial] += 1

    def _event_id(self) -> str:
        self._serial += 1
        return str(uuid.UUID(int=self._serial))
