"""What a lifecycle run did, for the log, the asset's metadata and the tests."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Packed:
    """A chunk that was compressed in place, or archived to a file: its rows, and its bytes before and after."""

    table: str
    chunk: str
    rows: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Rows that were read back from a file, or left at the end of the retention (rows of a partition are not counted then)."""

    table: str
    chunk: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A chunk that is old enough to leave and must stay, and why."""

    table: str
    chunk: str
    reason: str


@dataclass(slots=True)
class LifecycleReport:
    """One run. `problems` are chunks that could not be handled, each in one line; the others were."""

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
