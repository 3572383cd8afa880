"""What providers' own usage objects count, by the price package's mappings; whose totals have thoughts beside the answer.

The package knows for each provider one or more flavors of its API. A client does not say which one answered: it is the one
that leaves the least of the object unread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
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


@dataclass(frozen=True, slots=True, eq=False)
class _Flavor:
    """One flavor of a provider's API: where its usage lies in an answer, and the paths to values in there."""

    provider: Provider
    name: str
    root: tuple[str, ...]
    required: tuple[_Path, ...]
    optional: tuple[_Path, ...]

    @classmethod
    def of(cls, provider: Provider, extractor: UsageExtractor) -> "_Flavor":
        # A path may serve two units.
        paths = {repr(mapping.path): (_steps(mapping.path), mapping.required) for mapping in extractor.mappings}
        return cls(
            provider,
            extractor.api_flavor,
            tuple(str(step) for step in _steps(extractor.root)),
            tuple(path for path, is_required in paths.values() if is_required),
            tuple(path for path, is_required in paths.values() if not is_required),
        )

    def reading(self, usage: Mapping[str, Any]) -> "_Reading | None":
        """The object as a whole answer, or else as what lies in one; None when what must be there is missing."""
        for depth in range(len(self.root) + 1):
            inside = _at(usage, self.root[depth:])
            if inside is None or any(_at(inside, path) is None for path in self.required):
                continue
            read = len(self.required) + sum(_at(inside, path) is not None for path in self.optional)
            if read:
                return _Reading(self, usage, depth, inside, _values_in(inside) - read, read)
        return None


@dataclass(frozen=True, slots=True)
class _Reading:
    """An object read by one flavor: how many of its values that leaves unread, and how many it reads.

    `depth`: so many steps of the flavor's root are around the object.
    """

    flavor: _Flavor
    usage: Mapping[str, Any]
    depth: int
    inside: Any
    unread: int
    read: int

    def counts(self) -> dict[str, Count]:
        """The counts by unit. Raises Malformed when one of the values is no count."""
        name = f"provider_usage (as {self.flavor.provider.id} {self.flavor.name})"
        for path in (*self.flavor.required, *self.flavor.optional):
            value = _at(self.inside, path)
            # The package passes over a value that is no number where it can do without it.
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                steps = ".".join(step if isinstance(step, str) else step.field for step in path)
                raise Malformed(f"{name}: expected a number at {steps}, came {_shown(value)}")
        answer = self.usage
        for step in reversed(self.flavor.root[: self.depth]):
            answer = {step: answer}
        try:
            _, found = self.flavor.provider.extract_usage(answer, api_flavor=self.flavor.name)
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
    flavors = _flavors_of(provider, model)
    readings = [reading for flavor in flavors if (reading := flavor.reading(usage))]
    if not readings:
        raise Malformed(f"{_unread(provider, model, flavors, usage)}. Or send the counts as usage")
    least = min((reading.unread, -reading.read) for reading in readings)
    best = [reading for reading in readings if (reading.unread, -reading.read) == least]
    counts = [reading.counts() for reading in best if reading.flavor.provider is best[0].flavor.provider]
    units = {unit for one in counts for unit in one}
    return {unit: None if len({one.get(unit) for one in counts}) > 1 else counts[0][unit] for unit in sorted(units)}


def without_texts(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Of a provider's usage object what the package may read: numbers, and the texts that tell them apart (`"TEXT"`)."""
    names, tells = _read_members()
    kept: dict[str, Any] = _kept(usage, names, tells)
    return kept


@cache
def _read_members() -> tuple[frozenset[str], tuple[ArrayMatch, ...]]:
    """The names of members that flavors read, and what tells the members of a list apart."""
    extractors = [flavor for provider in get_snapshot().providers for flavor in provider.extractors or ()]
    paths = [_steps(path) for one in extractors for path in (one.root, *(mapping.path for mapping in one.mappings))]
    steps = [step for path in paths for step in path]
    tells = tuple(step for step in steps if not isinstance(step, str))
    return frozenset({step for step in steps if isinstance(step, str)} | {step.field for step in tells}), tells


def _kept(data: Any, names: frozenset[str], tells: Sequence[ArrayMatch]) -> Any:
    if isinstance(data, Mapping):
        return {
            name: _kept(value, names, tells)
            for name, value in data.items()
            if name in names
            and (not isinstance(value, str) or any(step.field == name and step.match.is_match(value) for step in tells))
        }
    return [_kept(one, names, tells) for one in data if not isinstance(one, str)] if isinstance(data, list) else data


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


@lru_cache(maxsize=_KEPT_NAMES)
def _flavors_of(provider: str, model: str) -> tuple[_Flavor, ...]:
    known = _providers_of(provider, model)
    return tuple(_Flavor.of(one, extractor) for one in known for extractor in one.extractors or ())


def _unread(provider: str, model: str, flavors: Sequence[_Flavor], usage: Mapping[str, Any]) -> str:
    if not flavors:
        names = values.described(ValueError(f"{provider}, {model}"))
        return f"provider_usage: expected a provider whose usage object the price package reads, came {names}"
    by_provider = groupby(flavors, lambda flavor: flavor.provider.id)
    tried = "; ".join(f"{known} ({', '.join(flavor.name for flavor in group)})" for known, group in by_provider)
    members = values.described(ValueError(", ".join(sorted(usage)) or "none"))
    return (
        f"provider_usage: expected the usage object of an API of {tried}, or its whole answer, came members {members}"
    )


def _steps(path: str | Sequence[str | ArrayMatch]) -> _Path:
    return (path,) if isinstance(path, str) else tuple(path)


def _at(data: Any, path: _Path) -> Any:
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


def _values_in(data: Any) -> int:
    if isinstance(data, dict):
        return sum(map(_values_in, data.values()))
    if isinstance(data, list):
        return sum(map(_values_in, data))
    return int(data is not None)


def _shown(value: Any) -> str:
    return values.shown(str(value).encode(errors="backslashreplace"))
