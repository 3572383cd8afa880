"""The report of a lifecycle run, for the log, the metadata of the asset and the tests."""

from dataclasses import dataclass, field

# When a run is due, in USAGE_TIMEZONE: after the roll-ups of the night.
SCHEDULE = "30 4 * * *"


@dataclass(frozen=True, slots=True)
class Packed:
    """A chunk that was compressed, or archived to a file: its rows, and its bytes before and after."""

    table: str
    chunk: str
    rows: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows that were read back from a file, or dropped at the end of the retention (not counted for a partition)."""

    table: str
    chunk: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A chunk that is old enough to go but must stay, and why."""

    table: str
    chunk: str
    reason: str


@dataclass(slots=True)
class LifecycleReport:
    """The report of one run. `problems` has one line for each chunk that failed; the other chunks are done."""

    strategy: str
    archive_place: str
    created: list[str] = field(default_factory=list)
    compressed: list[Packed] = field(default_factory=list)
    archived: list[Packed] = field(default_factory=list)
    restored: list[Moved] = field(default_factory=list)
    dropped: list[Moved] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    registry_rows_removed: int = 0
    leftovers_removed: int = 0
    refreshed: list[str] = field(default_factory=list)
    rolled_up: list[str] = field(default_factory=list)
