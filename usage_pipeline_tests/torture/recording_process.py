"""An API server that records until it is killed: `-m usage_pipeline_tests.torture.recording_process URL SPOOL LIFE SEED`.

It says each record on standard output before it makes it, so that its parent knows all but whether the last was made.
"""

import random
import sys
import time

from usage_recorder import Recorder

FAMILIES = ("api_key", "provider", "token", "event")


def main() -> None:
    url, spool, life, seed = sys.argv[1:]
    chance = random.Random(f"{seed} {life}")
    recorder = Recorder.connect(url, timeout_seconds=0.1, spool=spool)
    while True:
        family, amount = chance.choice(FAMILIES), chance.randint(1, 9)
        # Names of this life alone: so one record at most is in doubt of each.
        name = f"{life}-{chance.randrange(5)}"
        sys.stdout.write(f"{family} {name} {amount}\n")
        sys.stdout.flush()
        if not record(recorder, family, name, amount):
            raise SystemExit(f"not recorded: {dict(recorder.failures)}")
        time.sleep(0.001)


def record(recorder: Recorder, family: str, name: str, amount: int) -> bool:
    if family == "api_key":
        return recorder.record_api_key(name, requests=amount, file_size=10 * amount)
    if family == "provider":
        return recorder.record_provider(name, "s3", user_id="u", uploads=amount)
    if family == "token":
        return recorder.record_token(name, "api-1:8080", count=amount)
    return recorder.record_event(name, user_id="u", provider="s3", event_type="upload", file_size=amount) is not None


if __name__ == "__main__":
    main()
