"""What providers' own usage objects count, by the price package's mappings; whose totals have thoughts beside the answer.

The package knows for each provider one or more flavors of its API. A client does not say which one answered: it is the one
that leaves the least of the object unread.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import ArrayMatch, Provider, UsageExtractor

from usage_pipeline import values
from usage_pipeline.events.units.counts import Count, count_of
from usage_pipeline.events.units.registry import FRACTIONAL_UNITS
from usage_pipeline.values import Malformed

# Names come from clients, so there may be any number of them.
_KEPT_NAMES = 4096
_REASONING = "output_reasoning_tokens"
_Path = tuple[str | ArrayMatch, ...]


@dataclass(frozen=True, slots=True)
class _Reading:
    """An object as the answer of one flavor: how many of its values that one leaves unread, and how many it reads."""

    provider: Provider
    flavor: UsageExtractor
    answer: Mapping[str, Any]
    unread: int
    read: int

    def counts(self) -> dict[str, Count]:
        """The counts by unit. Raises Malformed when one of the values is no count."""
        name = f"provider_usage (as {self.provider.id} {self.flavor.api_flavor})"
        inside = _at(self.answer, _steps(self.flavor.root))
        for mapping in self.flavor.mappings:
            value = _at(inside, _steps(mapping.path))
            # The package passes over a value that is no number where it can do without it.
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                path = ".".join(step if isinstance(step, str) else step.field for step in _steps(mapping.path))
                raise Malformed(f"{name}: expected a number at {path}, came {_shown(value)}")
        try:
            _, found = self.provider.extract_usage(self.answer, api_flavor=self.flavor.api_flavor)
        # The package compares names of modalities as texts, whatever they are.
        except (ValueError, AttributeError) as fault:
            raise Malformed(f"{name}: {values.described(fault)}") from None
        return {
            unit: count_of(f"{name}: {unit}", count, has_fractions=unit in FRACTIONAL_UNITS)
            for unit, count in vars(found).items()
        }


def provider_counts(provider: str, model: str, usage: Mapping[str, Any]) -> dict[str, Count | None]:
    """The counts of a provider's usage object, or of its whole answer, by unit. Names are those of the event.

    A count is None where two flavors fit equally and count differently. Raises Malformed when none fits.
    """
    known = [one for one in _providers_of(provider, model) if one.extractors]
    readings = [
        reading for one in known for flavor in one.extractors or () if (reading := _reading(one, flavor, usage))
    ]
    if not readings:
        raise Malformed(f"{_unread(provider, model, known, usage)}. Or send the counts as usage")
    least = min((reading.unread, -reading.read) for reading in readings)
    best = [reading for reading in readings if (reading.unread, -reading.read) == least]
    counts = [reading.counts() for reading in best if reading.provider is best[0].provider]
    units = {unit for one in counts for unit in one}
    return {unit: None if len({one.get(unit) for one in counts}) > 1 else counts[0][unit] for unit in sorted(units)}


@lru_cache(maxsize=_KEPT_NAMES)
def has_thoughts_beside(provider: str, model: str) -> bool:
    """Whether the provider's total has thoughts beside its count of output tokens, and nothing else beside it (Google).

    Not where a provider offers the models of another one that counts otherwise (Claude at Google).
    """
    known = _providers_of(provider, model)
    return bool(known) and all(
        any(_beside_output(flavor) == {_REASONING} for flavor in one.extractors or ()) for one in known
    )


def _beside_output(flavor: UsageExtractor) -> set[str]:
    """Parts of the output that a flavor adds to the provider's own count of it."""
    added = [mapping.path for mapping in flavor.mappings if mapping.dest == "output_tokens"]
    return {mapping.dest for mapping in flavor.mappings if mapping.path in added} - {"output_tokens"}


@lru_cache(maxsize=_KEPT_NAMES)
def _providers_of(provider: str, model: str) -> tuple[Provider, ...]:
    """By the package's own rules: those of the name, of the model's prefixes (`openai/…`), of the model."""
    every = get_snapshot().providers
    by_name = [find_provider_by_id(every, name) for name in (provider, *model.split("/")[:-1]) if name]
    name = model.rpartition("/")[2].lower()
    by_model = [one for one in every if one.model_match is not None and one.model_match.is_match(name)]
    found = {one.id: one for one in (*by_name, *by_model[:1]) if one is not None}
    return tuple(found.values())


def _reading(provider: Provider, flavor: UsageExtractor, usage: Mapping[str, Any]) -> _Reading | None:
    """The object as a whole answer, or else as what lies in one; None when what must be there is missing."""
    root = _steps(flavor.root)
    # A path may serve two units.
    paths = {repr(mapping.path): (_steps(mapping.path), mapping.required) for mapping in flavor.mappings}
    for answer in _answers(root, usage):
        inside = _at(answer, root)
        there = [(_at(inside, path) is not None, required) for path, required in paths.values()]
        read = sum(is_there for is_there, _ in there)
        if read and all(is_there for is_there, required in there if required):
            return _Reading(provider, flavor, answer, _values_in(inside) - read, read)
    return None


def _answers(root: _Path, usage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The object itself, and inside of one more step of the root each."""
    yield usage
    for depth in range(1, len(root) + 1):
        answer = usage
        for step in reversed(root[:depth]):
            answer = {str(step): answer}
        yield answer


def _unread(provider: str, model: str, known: Sequence[Provider], usage: Mapping[str, Any]) -> str:
    if not known:
        names = values.described(ValueError(f"{provider}, {model}"))
        return f"provider_usage: expected a provider whose usage object the price package reads, came {names}"
    tried = "; ".join(f"{one.id} ({', '.join(flavor.api_flavor for flavor in one.extractors or ())})" for one in known)
    members = values.described(ValueError(", ".join(sorted(usage)) or "none"))
    return (
        f"provider_usage: expected the usage object of an API of {tried}, or its whole answer, came members {members}"
    )


def _steps(path: str | Sequence[str | ArrayMatch]) -> _Path:
    return (path,) if isinstance(path, str) else tuple(path)


def _at(data: Any, path: _Path) -> Any:
    """What lies at a path, or None."""
    for step in path:
        if isinstance(step, str):
            data = data.get(step) if isinstance(data, Mapping) else None
        elif isinstance(data, list):
            # The package compares texts alone.
            data = step.extract(
                [one for one in data if isinstance(one, Mapping) and isinstance(one.get(step.field), str)]
            )
        else:
            data = None
    return data


def _values_in(data: Any) -> int:
    if isinstance(data, Mapping):
        return sum(map(_values_in, data.values()))
    if isinstance(data, list):
        return sum(map(_values_in, data))
    return int(data is not None)


def _shown(value: Any) -> str:
    return values.shown(str(value).encode(errors="backslashreplace"))
