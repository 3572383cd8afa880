"""What the total of a provider's usage object says about its counts. Pure.

A total that is neither what was read nor what another usual way of counting gives is refused where it is too small. Where it
is too large, what is left is for the caller to tell.
"""

from collections.abc import Mapping
from itertools import combinations

from usage_pipeline.events.units.cached import READ, WRITTEN
from usage_pipeline.events.units.counts import Count
from usage_pipeline.values import Malformed

TOTALS = ("total_tokens", "totalTokens", "totalTokenCount")
REASONING = "output_reasoning_tokens"


def settled(
    name: str,
    counts: Mapping[str, Count | None],
    total: int,
    *,
    beside: Mapping[str, Mapping[str, Count]],
    borrowed: Count,
    has_thoughts_beside: bool,
) -> tuple[dict[str, Count | None], int | None]:
    """The counts as the total has them, and the total; None where it leaves parts out.

    `beside`: the parts that the mapping added to input and output, by these. `borrowed` was added to the input by us.
    Raises Malformed for a total below its parts.
    """
    entered, left = counts.get("input_tokens"), counts.get("output_tokens")
    if entered is None or left is None:
        return dict(counts), total
    rest = total - entered - left
    thoughts = counts.get(REASONING) or 0
    if rest > 0:
        return {**counts, **_more(counts, rest, beside, has_thoughts_beside)}, total
    if rest == 0:
        return dict(counts), total
    # LiteLLM puts the thoughts of xAI into the answer, and Gemini did so: they were added although they were in there.
    if set(beside["output_tokens"]) == {REASONING} and -rest == thoughts <= left - thoughts:
        return {**counts, "output_tokens": left - thoughts}, total
    if borrowed and -rest == borrowed <= entered - borrowed:
        return {**counts, "input_tokens": entered - borrowed}, total
    added = [borrowed, *beside["input_tokens"].values(), *beside["output_tokens"].values()]
    # Perplexity's total has no thoughts, and no citations.
    if any(sum(some) == -rest for size in range(1, len(added) + 1) for some in combinations(added, size)):
        return dict(counts), None
    raise Malformed(
        f"{name}: expected a total of at least input_tokens + output_tokens = {entered + left} as read, came {total}. "
        "Send the counts as usage"
    )


def _more(
    counts: Mapping[str, Count | None],
    rest: Count,
    beside: Mapping[str, Mapping[str, Count]],
    has_thoughts_beside: bool,
) -> dict[str, Count | None]:
    """What changes by a total above input and output: parts that lie beside them; nothing where it is not clear which."""
    entered, left = counts["input_tokens"] or 0, counts["output_tokens"] or 0
    thoughts, read, written = (counts.get(unit) or 0 for unit in (REASONING, READ, WRITTEN))
    is_thought = thoughts == rest and REASONING not in beside["output_tokens"]
    is_cached = rest in (read, written, read + written) and not {READ, WRITTEN} & set(beside["input_tokens"])
    if is_thought and not is_cached:
        return {"output_tokens": left + rest}
    if is_cached and not is_thought:
        return {"input_tokens": entered + rest}
    if not thoughts and not is_cached and has_thoughts_beside:
        return {"output_tokens": left + rest, REASONING: rest}
    return {}
