"""Lets Atheris look for inputs that break a parser: python -m usage_pipeline_tests.fuzz --minutes 30. `make fuzz` installs it.

Each parser has a process of its own, two at a time. One that needs more than the given memory, or more than ten seconds for
an input, has failed like one that raises. The inputs that failed are kept, and named at the end.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from usage_pipeline_tests.fuzz.parsers import PARSERS
from usage_pipeline_tests.fuzz.seeds import PIECES, SEEDS

_AT_ONCE = 2
_LONGEST_INPUT_BYTES = 256 * 1024
_SECONDS_FOR_AN_INPUT = 10
# For the first imports and the last input, beyond the minutes that were asked for.
_GRACE_SECONDS = 120
_TAIL_LINES = 40


def main() -> None:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-fuzz-"))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        run = partial(_run, folder=folder, minutes=arguments.minutes, megabytes=arguments.megabytes)
        has_passed = [*pool.map(run, arguments.only or PARSERS)]
    if not all(has_passed):
        sys.exit(f"the inputs that failed are in {folder}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m usage_pipeline_tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="for each parser (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=512, help="memory of each process (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARSERS, metavar="PARSER", help=", ".join(PARSERS))
    return parser.parse_args()


def _run(name: str, *, folder: Path, minutes: float, megabytes: int) -> bool:
    """Fuzzes one parser in a process of its own, and prints how it ended."""
    place, seconds = folder / name, int(minutes * 60)
    corpus = place / "corpus"
    corpus.mkdir(parents=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    (place / "pieces").write_text("".join(f'"{_quoted(piece)}"\n' for piece in PIECES))
    options = (
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={megabytes}",
        f"-timeout={_SECONDS_FOR_AN_INPUT}",
        f"-max_len={_LONGEST_INPUT_BYTES}",
        f"-dict={place / 'pieces'}",
        f"-artifact_prefix={place}/",
        "-print_final_stats=1",
    )
    command = [sys.executable, "-m", "usage_pipeline_tests.fuzz.guided", name, *options, str(corpus)]
    log = place / "log"
    with log.open("wb") as output:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=seconds + _GRACE_SECONDS,
            check=False,
        )
    lines = log.read_text(errors="replace").splitlines()
    if ended.returncode:
        print(f"{name}: FAILED", *lines[-_TAIL_LINES:], sep="\n  ", flush=True)
    else:
        print(f"{name}: passed, {', '.join(_statistics(lines))}", flush=True)
    return not ended.returncode


def _statistics(lines: list[str]) -> Iterator[str]:
    found = dict(line.removeprefix("stat::").split(":", 1) for line in lines if line.startswith("stat::"))
    yield f"{int(found['number_of_executed_units']):,} inputs"
    yield f"{int(found['peak_rss_mb'])} MB at most"
    yield f"slowest {int(found['slowest_unit_time_sec'])} s"


def _quoted(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


if __name__ == "__main__":
    main()
