"""A client of the HTTP service as a process of its own: sends batches in order, again and again until each is confirmed.

python trace_client.py URL BATCHES PROGRESS: the token comes in TRACE_CLIENT_TOKEN. BATCHES holds a JSON array of events a line;
PROGRESS gets a line for each confirmed batch: its number and the answer. Killed and started again, it goes on behind them,
so a batch that was stored and not yet confirmed is sent twice.
"""

import gzip
import json
import os
import sys
import time
from pathlib import Path

import httpx

_TIMEOUT_SECONDS = 120
_PAUSE_SECONDS = 0.05


def send(client: httpx.Client, url: str, body: bytes) -> dict[str, object]:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        try:
            answer = client.post(url, content=body)
            if answer.status_code == 200:
                return dict(answer.json())
            if answer.status_code < 500:
                raise SystemExit(f"refused with {answer.status_code}: {answer.text}")
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("no confirmation in time")
        time.sleep(_PAUSE_SECONDS)


def main(url: str, batches: Path, progress: Path) -> None:
    headers = {
        "Authorization": f"Bearer {os.environ['TRACE_CLIENT_TOKEN']}",
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    # The last line may be half written: then its batch is sent again.
    confirmed = progress.read_text().count("\n") if progress.exists() else 0
    if progress.exists():
        os.truncate(progress, sum(len(line) for line in progress.read_bytes().splitlines(keepends=True)[:confirmed]))
    with httpx.Client(headers=headers, timeout=30, trust_env=False) as client, progress.open("a") as file:
        for number, line in enumerate(batches.read_bytes().splitlines()):
            if number >= confirmed:
                answer = send(client, url, gzip.compress(line, 1))
                file.write(json.dumps([number, answer]) + "\n")
                file.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
