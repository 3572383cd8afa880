"""`python -m usage_pipeline.local.processes.run_when_served PLACE SCRIPT ARGUMENT…`: import a console script now, run it later.

Most of the start of a Dagster process is its imports. With this module the imports of several processes overlap, but each runs
only when the process that it needs listens on PLACE, a loopback port or the path of a socket. Without it, the web server would
look again only after ten seconds, the daemon after a minute, and both would make Dagster's tables at the same time.
"""

import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

from usage_pipeline.local.servers.ports import is_listening

_POLL_SECONDS = 0.05
# Longer than `dev` waits for the UI, so that its own message comes first.
_TIMEOUT_SECONDS = 300


def main() -> None:
    given, script, *arguments = sys.argv[1:]
    place = int(given) if given.isdigit() else Path(given)
    (entry_point,) = entry_points(group="console_scripts", name=script)
    run = entry_point.load()
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not is_listening(place):
        if time.monotonic() > deadline:
            sys.exit(f"{script}: nothing listens on {place} after {_TIMEOUT_SECONDS} s")
        time.sleep(_POLL_SECONDS)
    sys.argv = [script, *arguments]
    run()


if __name__ == "__main__":
    main()
