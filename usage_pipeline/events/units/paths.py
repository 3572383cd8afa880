"""Where values lie in a provider's decoded answer. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from genai_prices.types import ArrayMatch

Path = tuple[str | ArrayMatch, ...]
# No answer of a provider has half as many objects and lists in each other. Whoever looks at each value with its path, or at one
# level after the other, takes as many times longer.
MOST_LEVELS = 20


def steps(path: str | Sequence[str | ArrayMatch]) -> Path:
    """A path as the package writes it, as its steps."""
    return (path,) if isinstance(path, str) else tuple(path)


def named_steps(path: Path) -> tuple[str, ...]:
    """A path without the choice among the members of a list."""
    return tuple(step for step in path if isinstance(step, str))


def shown(path: Path) -> str:
    return ".".join(step if isinstance(step, str) else step.field for step in path)


def value_at(data: Any, path: Path) -> Any:
    """What lies at a path in decoded JSON, or None."""
    for step in path:
        if isinstance(step, str):
            if not isinstance(data, dict):
                return None
            data = data.get(step)
        elif isinstance(data, list):
            # The package compares texts alone.
            data = step.extract([one for one in data if isinstance(one, dict) and isinstance(one.get(step.field), str)])
        else:
            return None
    return data


def has_few_levels(data: Any) -> bool:
    """Whether decoded JSON is nested at most MOST_LEVELS deep."""
    level = [data]
    for _ in range(MOST_LEVELS):
        level = [
            one
            for outer in level
            for one in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(one, dict | list)
        ]
        if not level:
            return True
    return False


def numbers_in(data: Any) -> Iterator[tuple[tuple[str, ...], int | float]]:
    """Each number with its path, but for those in lists."""
    left: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            left.extend(((*path, name), one) for name, one in reversed(value.items()))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def values_in(data: Any) -> int:
    """How many values there are, in lists too."""
    count, left = 0, [data]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        else:
            count += value is not None
    return count
