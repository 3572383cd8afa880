"""The rules of single members that an event may have beyond the plain ones (contracts §8.1): ids, costs, tags, usage. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from hashlib import sha1
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from usage_pipeline import values
from usage_pipeline.events.units.counts import REMEDY, Count, columns_of, normalised, sent_counts
from usage_pipeline.events.units.providers import has_thoughts_beside, provider_usage_of
from usage_pipeline.values import Malformed

MAX_TAGS = 20
MAX_TAG_NAME_CHARACTERS = 100
MAX_TAG_CHARACTERS = 200
# A request that costs more, or a part of a dollar that is smaller, is a mistake.
MAX_COST_USD = 10**9
MAX_COST_DECIMALS = 40
_MAX_COST_CHARACTERS = 100
# A JSON number below MAX_COST_USD, without an exponent.
_PLAIN_COST = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,40})?")
# The lengths of a UUID with its hyphens and without.
_UUID_CHARACTERS = (36, 32)
_EXTERNAL: Final = uuid5(NAMESPACE_URL, "urn:usage-pipeline:event").bytes
# What a reason adds to a total that is not the sum of its parts.
_SUM_BY_ITSELF = ". Leave total_tokens out to have it summed up"
_ROOTS = ("input_tokens", "output_tokens")


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The id of an event's row; and as the client gave them: the source, and an id that is no UUID."""

    event_id: UUID
    source: str | None
    external_id: str | None


def identity(event_id: str, source: str | None, sender: str) -> Identity:
    """A UUID is the id of the row as it is. Another text is unique for its source, or for its sender without one.

    Raises Malformed.
    """
    source = optional_text("source", source)
    if len(event_id) in _UUID_CHARACTERS:
        try:
            return Identity(msgspec.convert(event_id, UUID), source, None)
        except msgspec.ValidationError:
            pass
    text = values.identifier_text("event_id", event_id)
    source = source or sender
    # What `uuid5` makes, in half the time: nearly all ids of other programs are such.
    digest = sha1(_EXTERNAL + f"{source}\0{text}".encode(), usedforsecurity=False).digest()
    return Identity(UUID(bytes=digest[:16], version=5), source, text)


def without_remedy(reason: str) -> str:
    """The reason of a refusal without what senders of events can do: whoever sends another format has no such members."""
    return reason.removesuffix(REMEDY).removesuffix(_SUM_BY_ITSELF)


def optional_text(name: str, text: str | None) -> str | None:
    """At most 200 characters without NUL; an empty text is the same as none. Raises Malformed."""
    return values.identifier_text(name, text) if text else None


def cost_text(cost: msgspec.Raw) -> str | None:
    """US dollars as a decimal without an exponent, with all its digits; an empty text is the same as none. Raises Malformed.

    `cost` is JSON as it came: a float would round it.
    """
    text = bytes(cost).decode(errors="backslashreplace")
    # Nearly all are written so. The rest takes three times as long.
    if _PLAIN_COST.fullmatch(text):
        return text.rstrip("0").rstrip(".") if "." in text else text
    if text in ("null", '""'):
        return None
    try:
        if text.startswith('"'):
            text = msgspec.json.decode(cost, type=str)
        if len(text) > _MAX_COST_CHARACTERS or text != text.strip() or "_" in text:
            raise InvalidOperation
        usd = Decimal(text)
    except (InvalidOperation, *values.UNREADABLE_JSON):
        raise Malformed(f"cost_usd: expected a number or a decimal as text, came {_shown(text)}") from None
    if not usd.is_finite() or not 0 <= usd <= MAX_COST_USD:
        raise Malformed(f"cost_usd: expected 0 to {MAX_COST_USD} US dollars, came {_shown(text)}")
    if not usd:
        return "0"
    exponent = usd.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_COST_DECIMALS:
        raise Malformed(f"cost_usd: expected at most {MAX_COST_DECIMALS} decimals, came {_shown(text)}")
    plain = format(usd, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def tags_text(tags: Mapping[str, str | None] | None) -> str | None:
    """Tags as JSON, by name; one with an empty value is the same as none. Raises Malformed."""
    kept = {name: value for name, value in (tags or {}).items() if value}
    if len(kept) > MAX_TAGS:
        raise Malformed(f"tags: expected at most {MAX_TAGS}, came {len(kept)}")
    for name, value in kept.items():
        if not 0 < len(name) <= MAX_TAG_NAME_CHARACTERS:
            raise Malformed(f"tags: expected names of 1 to {MAX_TAG_NAME_CHARACTERS} characters, came {len(name)}")
        if len(value) > MAX_TAG_CHARACTERS:
            raise Malformed(f"tags: expected values of at most {MAX_TAG_CHARACTERS} characters, came {len(value)}")
    return values.storable_json(kept, "tags") if kept else None


@dataclass(frozen=True, slots=True)
class Usage:
    """All counts of an event as they are stored. `named` are those of units.registry.NAMED_UNITS."""

    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int
    unattributed_tokens: int | None
    named: tuple[int | None, ...]
    others: Mapping[str, Count | None]


def usage_of(
    provider: str,
    model: str,
    *,
    entered: int | None,
    left: int | None,
    total: int | None,
    usage: Mapping[str, Any] | None,
    provider_usage: Mapping[str, Any] | None,
) -> Usage:
    """The counts of an event from all that tells them. Raises Malformed when they contradict each other."""
    if usage and provider_usage:
        raise Malformed("usage, provider_usage: expected one of them, came both")
    told: dict[str, Count | None] = {}
    if usage:
        told = {**sent_counts(usage)}
    elif provider_usage:
        found = provider_usage_of(provider, model, provider_usage, total)
        told, total = dict(found.counts), found.total
    for root, count in zip(_ROOTS, (entered, left), strict=True):
        if count is not None and told.get(root) is not None and told[root] != count:
            twice = "usage" if usage else "provider_usage"
            raise Malformed(
                f"{root}: expected the {told[root]} that {twice} says, or none, came {count}. It includes every part of it, "
                "cached tokens and thoughts too"
            )
        if count is not None:
            told[root] = count
    # A provider's own object has told its thoughts already.
    if total is not None and not provider_usage:
        _attribute(provider, model, told, total)
    entered, left = (_whole(told.get(root)) for root in _ROOTS)
    total, unattributed = _total_tokens(entered, left, total)
    if not told.keys() - set(_ROOTS):
        return Usage(entered, left, total, unattributed, (None,) * 7, {})
    return Usage(entered, left, total, unattributed, *columns_of(normalised(told)))


def _attribute(provider: str, model: str, told: dict[str, Count | None], total: int) -> None:
    """What a total has beyond input and output are thoughts, where the provider counts these beside the answer."""
    entered, left, thoughts = (_whole(told.get(unit)) for unit in (*_ROOTS, "output_reasoning_tokens"))
    if entered is None or left is None or (rest := total - entered - left) <= 0:
        return
    if thoughts in (None, 0, rest) and has_thoughts_beside(provider, model):
        told["output_tokens"] = left + rest
        told["output_reasoning_tokens"] = rest


def _total_tokens(entered: int | None, left: int | None, total: int | None) -> tuple[int, int | None]:
    """The given total, or the sum of the parts; and what of it is neither. With only one part, the total 0 is the default of
    clients, so not given.

    A total above the one part stays: the rest is of a kind that the client did not tell.
    """
    given = [part for part in (entered, left) if part is not None]
    parts = sum(given)
    if parts > values.MAX_COUNT:
        raise Malformed(f"input_tokens + output_tokens: expected 0 to {values.MAX_COUNT}, came {parts}")
    if total is None or not given:
        return total or parts, None
    if len(given) == 2:
        if total < parts:
            reason = f"total_tokens: expected at least input_tokens + output_tokens = {parts}, came {total}"
            raise Malformed(f"{reason}{_SUM_BY_ITSELF}")
        return total, total - parts or None
    if 0 < total < parts:
        name = "output_tokens" if entered is None else "input_tokens"
        raise Malformed(f"total_tokens: expected at least {name} = {parts}, came {total}{_SUM_BY_ITSELF}")
    return total or parts, None


def _whole(count: Count | None) -> int | None:
    """A count of tokens, which has no fraction."""
    return None if count is None else int(count)


def _shown(value: object) -> str:
    return values.shown(str(value).encode(errors="backslashreplace"))
