"""Client processes that send batches to a service that is killed and started again."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from usage_pipeline_tests.api.ingest.service_process import ServiceProcess

CLIENT = Path(__file__).parent / "trace_client.py"
CLIENTS, SERVER_KILLS = 4, 3
TIMEOUT_SECONDS = 240
Events = list[dict[str, Any]]


class Client:
    """A client process with its share of the batches."""

    def __init__(self, number: int, folder: Path, url: str, token: str, batches: Sequence[Events]) -> None:
        self._batches, self.progress = folder / f"{number}.batches", folder / f"{number}.progress"
        self._batches.write_text("".join(json.dumps(batch) + "\n" for batch in batches))
        self.progress.unlink(missing_ok=True)
        self._url = f"{url}/api/v1/ingest/requests:bulk"
        self._environment = os.environ | {"TRACE_CLIENT_TOKEN": token}
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(CLIENT), self._url, str(self._batches), str(self.progress)]
        self.process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> Events:
        return [json.loads(line)[1] for line in self.progress.read_text().splitlines()]


def batches_of(events: Events, chance: random.Random, duplicates: float) -> list[Events]:
    """The events in random order and batches of 1 to 1,000, some of them twice."""
    sent = [*events, *chance.sample(events, int(len(events) * duplicates))]
    chance.shuffle(sent)
    batches = []
    while sent:
        size = min(chance.randint(1, 1_000), chance.randint(1, 1_000))
        batches.append(sent[:size])
        sent = sent[size:]
    return batches


def send_all(
    batches: Sequence[Events], service: ServiceProcess, token: str, folder: Path, chance: random.Random, *, kills: int
) -> Counter[str]:
    """Sends from four clients, which are killed so often, and the server now and then; returns what they were answered."""
    clients = [Client(number, folder, service.url, token, batches[number::CLIENTS]) for number in range(CLIENTS)]
    server_kills = SERVER_KILLS if kills else 0
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while any(client.is_running for client in clients):
            assert time.monotonic() < deadline
            with suppress(subprocess.TimeoutExpired):
                chance.choice(clients).process.wait(chance.uniform(0.1, 0.5))
            running = [client for client in clients if client.is_running]
            if kills and running:
                victim = chance.choice(running)
                victim.kill()
                victim.start()
                kills -= 1
            if server_kills and running and chance.random() < 0.3:
                service.kill_and_start()
                server_kills -= 1
    finally:
        for client in clients:
            client.kill()
    for client in clients:
        assert client.process.returncode == 0, client.process.stdout and client.process.stdout.read()
    answers = [answer for client in clients for answer in client.answers()]
    assert len(answers) == len(batches)
    assert [answer["rejected"] for answer in answers if answer["rejected"]] == []
    return Counter({name: sum(answer[name] for answer in answers) for name in ("received", "inserted", "conflicts")})
