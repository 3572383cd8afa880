"""Which model of the price package a name of our events means: as it is, and without the prefixes that gateways and clouds add.

The package itself understands many spellings, other names of providers and most snapshots by date; case does not count.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache

from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    ModelInfo,
    ModelPrice,
    Provider,
)

# Where the sender does not know the provider, the name of the model alone decides.
UNKNOWN_PROVIDER = "unknown"
_MODELS = "models/"
_OPENROUTER = "openrouter"
_BEDROCK_PROVIDER = "aws"
# Application inference profiles have ids of their own: only an alias can say which model is behind one.
_BEDROCK_ARN = re.compile(r"arn:[^:]*:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(.+)")
_BEDROCK_REGION = re.compile(r"(?:[a-z]{2,6}|us-gov)\.(?=[a-z0-9]+\.)")
_SNAPSHOT = re.compile(r"[-@]20\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])$")
_MOST_PREFIXES = 4
# Of 1: below, names have little but letters in common.
_ALIKE = 0.7


@dataclass(frozen=True, slots=True)
class Found:
    """A model of the package, and the (provider, model) that it was found by."""

    provider: Provider
    model: ModelInfo
    spelling: tuple[str, str]

    @property
    def name(self) -> str:
        return f"{self.provider.id}/{self.model.id}"


def find(provider: str, model: str) -> Found | None:
    """The model that a name means; None if the package has none."""
    for one in spellings(provider, model):
        # A free variant comes before the model without its prefix, which is another provider's and costs money.
        if found := _find_as_spelled(*one) or _find_free(*one):
            return found
    return None


def find_alias(alias: str) -> Found | None:
    """The model of a text provider/model: the one with these ids, or else what this name means. None if there is none."""
    provider, _, model = alias.partition("/")
    known = find_provider_by_id(get_snapshot().providers, provider)
    for one in known.models if known is not None else ():
        if known is not None and one.id.lower() == model.lower():
            return Found(known, one, (provider, model))
    return find(provider, model)


@cache
def names_of(provider_id: str) -> tuple[str, ...]:
    """Names by which the package knows the models of a provider: their ids, and the texts by which it finds them."""
    [provider] = [one for one in get_snapshot().providers if one.id == provider_id]
    names = (name for model in provider.models for name in (model.id, *_texts_of(model.match)))
    return tuple(name for name in dict.fromkeys(names) if _find_as_spelled(provider_id, name) is not None)


def _texts_of(clause: object) -> Iterator[str]:
    match clause:
        case ClauseOr(or_=several) | ClauseAnd(and_=several):
            for one in several:
                yield from _texts_of(one)
        case ClauseEquals(equals=text) | ClauseStartsWith(starts_with=text) | ClauseEndsWith(ends_with=text):
            yield text
        case ClauseContains(contains=text):
            yield text


def spellings(provider: str, model: str) -> Iterator[tuple[str, str]]:
    """The name as it is; without prefixes; without the date of a snapshot. Each at most once."""
    unprefixed = [(provider, model), *_without_prefixes(provider, model)]
    regional = [
        (one, region.string[region.end() :]) for one, name in unprefixed if (region := _BEDROCK_REGION.match(name))
    ]
    undated = [(one, _SNAPSHOT.sub("", name)) for one, name in (*unprefixed, *regional)]
    yield from dict.fromkeys((*unprefixed, *regional, *undated))


def nearest(provider: str, model: str) -> str | None:
    """The name in the package that looks most like this one, preferably of the same provider; None if none does."""
    known = find_provider_by_id(get_snapshot().providers, provider)
    bare = model.lower().rpartition("/")[2]
    if known is not None:
        ids = {one.id.lower(): one.id for one in known.models}
        for name in (model.lower(), bare):
            if near := get_close_matches(name, ids, n=1, cutoff=_ALIKE):
                return f"{known.id}/{ids[near[0]]}"
    near = get_close_matches(f"{provider}/{bare}".lower(), _all_names(), n=1, cutoff=_ALIKE)
    return _all_names()[near[0]] if near else None


@cache
def _all_names() -> dict[str, str]:
    names = [f"{provider.id}/{model.id}" for provider in get_snapshot().providers for model in provider.models]
    return {name.lower(): name for name in names}


def _find_as_spelled(provider: str, model: str) -> Found | None:
    try:
        asked = None if provider.lower() == UNKNOWN_PROVIDER else provider
        found = get_snapshot().find_provider_model(model, None, asked, None)
    except LookupError:
        return None
    return Found(*found, (provider, model))


def _find_free(provider: str, model: str) -> Found | None:
    """A variant of OpenRouter's that costs nothing, whatever the model: https://openrouter.ai/docs/model-variants/free"""
    known = find_provider_by_id(get_snapshot().providers, provider)
    if known is None or known.id != _OPENROUTER or not model.lower().endswith(":free"):
        return None
    if model.lower().startswith(f"{_OPENROUTER}/"):
        # The name without this prefix is among the spellings, and may be listed.
        return None
    return Found(known, ModelInfo(model, ClauseEquals(model), prices=ModelPrice()), (provider, model))


def _without_prefixes(provider: str, model: str) -> Iterator[tuple[str, str]]:
    """The provider of the event comes first; then the one that the prefix names."""
    if arn := _BEDROCK_ARN.search(model):
        yield provider, arn[1]
        yield _BEDROCK_PROVIDER, arn[1]
        return
    if _MODELS in model:
        # Google's resource names: models/NAME, and projects/…/publishers/google/models/NAME.
        yield provider, model.rpartition(_MODELS)[2]
    parts = model.split("/")
    prefix = parts[0].lower()
    if len(parts) < 2 or not _is_provider(prefix):
        return
    if prefix == _OPENROUTER:
        # What follows is a whole name of OpenRouter's, which begins with a provider.
        yield _OPENROUTER, "/".join(parts[1:])
        return
    for place in range(1, min(len(parts), _MOST_PREFIXES)):
        rest = "/".join(parts[place:])
        yield provider, rest
        yield prefix, rest


@lru_cache(maxsize=1_024)
def _is_provider(prefix: str) -> bool:
    return find_provider_by_id(get_snapshot().providers, prefix) is not None
