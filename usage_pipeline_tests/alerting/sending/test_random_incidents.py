"""Random incidents, channels and people against a simple model: each is told once a channel, in time, and its end once.

The model knows the promises of docs/alerts.md and none of the tables. It sees messages only.
"""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
import pytest

from usage_pipeline.alerting import record
from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.rules import Judgement
from usage_pipeline.alerting.sending.channels import Channel
from usage_pipeline.alerting.sending.dispatch import send_due
from usage_pipeline.alerting.sending.messages import Message
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.alerts import age

# What docs/alerts.md promises, in minutes.
REPEATED = {"long-run": 60, "dead-letters": 24 * 60}
RECURS, GROWS = 15, 15
# A channel that was away is tried after 15 minutes at most, and what a rule has too much of waits five.
LATEST = 15 + 5 + 6
KEYS = [f"{rule}:{number}" for rule in REPEATED for number in range(7)]
STEPS = 70


@dataclass
class Incident:
    """One time that something was wrong, and what each channel was told of it."""

    key: str
    number: int
    size: int = 1
    is_over: bool = False
    is_seen_over: bool = False
    acknowledged_size: int | None = None
    told: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    ended: set[str] = field(default_factory=set)
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def rule(self) -> str:
        return self.key.partition(":")[0]

    @property
    def alert(self) -> Alert:
        title = f"{self.key} {self.number}"
        return Alert(self.rule, self.key, "failure", title, "text", "remedy", size=self.size)


class World:
    """The model, and the carrier that it watches."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.incidents: dict[str, list[Incident]] = {key: [] for key in KEYS}
        self.configured = ["a", "b", "c"]
        self.down: set[str] = set()
        self.up_since: dict[str, float] = {}
        self.snoozed: dict[str, float] = {}

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(Channel(name, f"{number} (test)") for number, name in enumerate(self.configured, 1))

    def send(self, messages: Mapping[str, Message]) -> dict[str, str | None]:
        for channel, message in messages.items():
            if channel not in self.down:
                for one in message.alerts:
                    key, number = one.title.split()
                    self.receive(channel, message.kind, self.incidents[key][int(number)])
        return {channel: "away" if channel in self.down else None for channel in messages}

    def open_ones(self) -> list[Incident]:
        return [one for many in self.incidents.values() for one in many[-1:] if not one.is_over]

    def is_snoozed(self, key: str) -> bool:
        return self.snoozed.get(key, 0) > self.now

    def last_told(self, key: str, channel: str, but: Incident) -> float:
        return max(
            (at for one in self.incidents[key] if one is not but for at, _ in one.told[channel]), default=-10_000.0
        )

    def receive(self, channel: str, kind: str, incident: Incident) -> None:
        """A message has arrived: was it right to send it?"""
        if kind == "cleared":
            assert incident.is_over, f"{incident.alert.title}: told as over, and is not"
            assert channel not in incident.ended, f"{incident.alert.title}: its end twice to {channel}"
            incident.ended.add(channel)
            return
        assert not incident.is_over
        assert not self.is_snoozed(incident.key), f"{incident.alert.title}: is snoozed"
        before = incident.told[channel]
        if not before:
            assert self.now - self.last_told(incident.key, channel, incident) >= RECURS, "comes and goes"
        else:
            at, size = before[-1]
            taken_on = incident.acknowledged_size
            has_grown = incident.size >= 2 * max(size, taken_on or 0) and self.now - at >= GROWS
            is_taken_on = taken_on is not None and incident.size < 2 * taken_on
            assert has_grown or (self.now - at >= REPEATED[incident.rule] and not is_taken_on), (
                f"{incident.alert.title}: twice to {channel}"
            )
        before.append((self.now, incident.size))

    def expect_in_time(self, minutes: float) -> None:
        """Nobody waits too long for what is open; the minutes count in which it could have been told."""
        for incident in self.open_ones():
            for channel in self.configured:
                recurred = self.now - self.last_told(incident.key, channel, incident) < RECURS
                if incident.told[channel] or channel in self.down or self.is_snoozed(incident.key) or recurred:
                    incident.waited[channel] = 0
                    continue
                incident.waited[channel] += minutes
                assert incident.waited[channel] <= LATEST, f"{incident.alert.title}: not told to {channel}"

    def change(self, postgres: psycopg.Connection) -> None:
        """Something happens."""
        draw = self.random.random()
        key = self.random.choice(KEYS)
        current = self.incidents[key][-1] if self.incidents[key] else None
        is_open = current is not None and not current.is_over
        if draw < 0.45:
            if current is not None and not current.is_over:
                current.is_over = True
            elif current is None or current.is_seen_over:
                self.incidents[key].append(Incident(key, len(self.incidents[key])))
        elif draw < 0.55:
            for one in self.open_ones():
                one.size *= self.random.choice([1, 1, 2, 3])
        elif draw < 0.60:
            rule = self.random.choice([*REPEATED])
            for other in KEYS:
                if other.startswith(rule) and all(one.is_seen_over for one in self.incidents[other]):
                    self.incidents[other].append(Incident(other, len(self.incidents[other])))
        elif draw < 0.65:
            for one in self.open_ones():
                one.is_over = one.is_over or self.random.random() < 0.8
        elif draw < 0.75:
            name = self.random.choice("abcd")
            self.down ^= {name}
        elif draw < 0.85:
            self.configured = self.random.sample("abcd", self.random.randint(1, 4))
        elif current is not None and is_open and draw < 0.92:
            found = record.acknowledge(postgres, key, "ann@desk")
            current.acknowledged_size = current.size if found else current.acknowledged_size
        elif is_open and record.snooze(postgres, key, timedelta(minutes=40), "ann@desk"):
            self.snoozed[key] = self.now + 40


def evaluate(world: World, postgres: psycopg.Connection, settings: Settings) -> None:
    alerts = tuple(one.alert for one in world.open_ones())
    record.note_judgement(postgres, Judgement(alerts, frozenset(REPEATED)), settings)
    for many in world.incidents.values():
        for one in many:
            # What comes back before anybody looked was never away.
            one.is_seen_over = one.is_over
    send_due(postgres, world)


def wait(world: World, postgres: psycopg.Connection, minutes: float) -> None:
    age(postgres, minutes)
    world.now += minutes


@pytest.mark.parametrize("seed", range(8))
def test_each_incident_is_told_once_a_channel_in_time_and_its_end_once(
    settings: Settings, postgres: psycopg.Connection, seed: int
) -> None:
    world = World(seed)
    for _ in range(STEPS):
        for _ in range(world.random.choice([0, 1, 1, 2, 5])):
            world.change(postgres)
        evaluate(world, postgres, settings)
        minutes = world.random.choice([0.5, 0.5, 1, 3, 6])
        world.expect_in_time(minutes)
        wait(world, postgres, minutes)
    # Everybody is there, and all of it ends.
    world.configured, world.down = ["d", "c", "b", "a"], set()
    for _ in range(8):
        evaluate(world, postgres, settings)
        world.expect_in_time(6)
        wait(world, postgres, 6)
    for one in world.open_ones():
        one.is_over = True
    for _ in range(8):
        evaluate(world, postgres, settings)
        wait(world, postgres, 6)
    incidents = [one for many in world.incidents.values() for one in many]
    assert len(incidents) > 30
    assert [one.alert.title for one in incidents if {name for name, at in one.told.items() if at} - one.ended] == []
    assert any(len(times) > 1 for one in incidents for times in one.told.values()), "or nothing was repeated"
    assert any(one.ended - {name for name, times in one.told.items() if times} for one in incidents), "nobody was away"
