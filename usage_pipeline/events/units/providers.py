"""What providers' own usage objects count, by the price package's mappings; whose totals have thoughts beside the answer.

The package knows for each provider one or more flavors of its API. A client does not say which one answered: it is the one
that leaves the least of the object unread.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Any

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import ArrayMatch, Provider, UsageExtractor

from usage_pipeline import values
from usage_pipeline.events.units.cached import OTHER_NAMES, with_cached
from usage_pipeline.events.units.counts import Count, count_of
from usage_pipeline.events.units.paths import (
    MOST_LEVELS,
    Path,
    has_few_levels,
    named_steps,
    shown,
    steps,
    value_at,
    values_in,
)
from usage_pipeline.events.units.registry import FRACTIONAL_UNITS, ROOTS
from usage_pipeline.events.units.totals import REASONING, TOTALS, settled
from usage_pipeline.values import Malformed

# Names come from clients, so there may be any number of them.
_KEPT_NAMES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class _Flavor:
    """One flavor of a provider's API: where its usage lies in an answer, and the paths to values in there."""

    provider: Provider
    name: str
    root: tuple[str, ...]
    required: tuple[Path, ...]
    optional: tuple[Path, ...]
    # Where its input lies, and the parts that are added to input and output.
    input_path: Path
    beside: Mapping[str, Set[str]]

    @classmethod
    def of(cls, provider: Provider, extractor: UsageExtractor) -> "_Flavor":
        # A path may serve two units.
        paths = {repr(mapping.path): (steps(mapping.path), mapping.required) for mapping in extractor.mappings}
        return cls(
            provider,
            extractor.api_flavor,
            tuple(str(step) for step in steps(extractor.root)),
            tuple(path for path, is_required in paths.values() if is_required),
            tuple(path for path, is_required in paths.values() if not is_required),
            next((steps(mapping.path) for mapping in extractor.mappings if mapping.dest == "input_tokens"), ()),
            {root: _beside(extractor, root) for root in ROOTS},
        )

    def reading(self, usage: Mapping[str, Any]) -> "_Reading | None":
        """The object as a whole answer, or else as what lies in one; None when what must be there is missing."""
        for depth in range(len(self.root) + 1):
            inside = value_at(usage, self.root[depth:])
            if inside is None or any(value_at(inside, path) is None for path in self.required):
                continue
            read = len(self.required) + sum(value_at(inside, path) is not None for path in self.optional)
            if read:
                return _Reading(self, usage, depth, inside, values_in(inside) - read, read)
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

    @property
    def name(self) -> str:
        return f"provider_usage (as {self.flavor.provider.id} {self.flavor.name})"

    def counts_and_total(self, total: int | None, thinks_beside: bool) -> tuple[dict[str, Count | None], int | None]:
        """The counts by unit, and the total: the object's own one, or the other one that the client told.

        Raises Malformed when one of the values is no count, and when they contradict each other.
        """
        own = self._own_total()
        if own is not None and total is not None and own != total:
            raise Malformed(f"total_tokens: expected the {own} that provider_usage says, or none, came {total}")
        read = {named_steps(path) for path in (*self.flavor.required, *self.flavor.optional)}
        package = self._package_counts()
        counts, borrowed = with_cached(self.name, package, self.inside, read, self.flavor.input_path)
        total = total if own is None else own
        if total is None:
            return counts, None
        beside = {root: {unit: package.get(unit, 0) for unit in units} for root, units in self.flavor.beside.items()}
        return settled(self.name, counts, total, beside=beside, borrowed=borrowed, has_thoughts_beside=thinks_beside)

    def _own_total(self) -> int | None:
        """A total of 0 beside other counts is the default of clients."""
        told = [(name, self.inside[name]) for name in TOTALS if isinstance(self.inside, dict) and self.inside.get(name)]
        return int(count_of(f"{self.name}: {told[0][0]}", told[0][1])) if told else None

    def _package_counts(self) -> dict[str, Count]:
        name = self.name
        for path in (*self.flavor.required, *self.flavor.optional):
            value = value_at(self.inside, path)
            # The package passes over a value that is no number where it can do without it.
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise Malformed(f"{name}: expected a number at {shown(path)}, came {_shown(value)}")
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


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """What a provider's usage object says: counts by unit, and the total; None: cannot be known, or is not told."""

    counts: Mapping[str, Count | None]
    total: int | None


def provider_usage_of(provider: str, model: str, usage: Mapping[str, Any], total: int | None = None) -> ProviderUsage:
    """What a provider's usage object, or its whole answer, says. Names, and the `total` beside it, are those of the event.

    A count is None where two flavors fit equally and count differently. Raises Malformed when none fits, and when a total
    contradicts the counts.
    """
    if not has_few_levels(usage):
        raise Malformed(f"provider_usage: expected at most {MOST_LEVELS} objects and lists in each other, came more")
    flavors = _flavors_of(provider, model)
    readings = [reading for flavor in flavors if (reading := flavor.reading(usage))]
    if not readings:
        raise Malformed(f"{_unread(provider, model, flavors, usage)}. Or send the counts as usage")
    least = min((reading.unread, -reading.read) for reading in readings)
    best = [reading for reading in readings if (reading.unread, -reading.read) == least]
    thinks_beside = has_thoughts_beside(provider, model)
    found = [
        reading.counts_and_total(total, thinks_beside)
        for reading in best
        if reading.flavor.provider is best[0].flavor.provider
    ]
    counts = [one for one, _ in found]
    units = {unit for one in counts for unit in one}
    agreed = {unit: None if len({one.get(unit) for one in counts}) > 1 else counts[0][unit] for unit in sorted(units)}
    return ProviderUsage(agreed, found[0][1])


def without_texts(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Of a provider's usage object what the package may read: numbers, and the texts that tell them apart (`"TEXT"`)."""
    names, tells = _read_members()
    kept: dict[str, Any] = _kept(usage, names, tells, MOST_LEVELS)
    return kept


@cache
def _read_members() -> tuple[frozenset[str], tuple[ArrayMatch, ...]]:
    """The names of members that flavors read, and what tells the members of a list apart."""
    extractors = [flavor for provider in get_snapshot().providers for flavor in provider.extractors or ()]
    paths = [steps(path) for one in extractors for path in (one.root, *(mapping.path for mapping in one.mappings))]
    every = [step for path in (*paths, *OTHER_NAMES, TOTALS) for step in path]
    tells = tuple(step for step in every if not isinstance(step, str))
    return frozenset({step for step in every if isinstance(step, str)} | {step.field for step in tells}), tells


def _kept(data: Any, names: frozenset[str], tells: Sequence[ArrayMatch], levels: int) -> Any:
    if not isinstance(data, Mapping | list):
        return data
    if levels == 0:
        return None
    if isinstance(data, list):
        return [_kept(one, names, tells, levels - 1) for one in data if not isinstance(one, str)]
    return {
        name: _kept(value, names, tells, levels - 1)
        for name, value in data.items()
        if name in names
        and (not isinstance(value, str) or any(step.field == name and step.match.is_match(value) for step in tells))
    }


@lru_cache(maxsize=_KEPT_NAMES)
def has_thoughts_beside(provider: str, model: str) -> bool:
    """Whether the provider's total has thoughts beside its count of output tokens, and nothing else beside it (Google).

    Not where a provider offers the models of another one that counts otherwise (Claude at Google).
    """
    known = _providers_of(provider, model)
    return bool(known) and all(
        any(_beside(flavor, "output_tokens") == {REASONING} for flavor in one.extractors or ()) for one in known
    )


def _beside(flavor: UsageExtractor, root: str) -> set[str]:
    """Parts of the input or the output that a flavor adds to the provider's own count of it."""
    added = [mapping.path for mapping in flavor.mappings if mapping.dest == root]
    return {mapping.dest for mapping in flavor.mappings if mapping.path in added} - {root}


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


def _shown(value: Any) -> str:
    return values.shown(str(value).encode(errors="backslashreplace"))
