"""What the answer of an API says beside its items: that there are more of them, or that it is an error. Pure; no I/O."""

from collections.abc import Mapping
from typing import Any

import msgspec

from usage_pipeline.texts import shortened
from usage_pipeline.values import UNREADABLE_JSON

# Of what says where the next page begins, more than any API gives.
_NEXT_CHARACTERS = 200
_ERROR_CHARACTERS = 300


def said_of_more(members: Mapping[str, msgspec.Raw]) -> str | None:
    """A sentence about the pages after this one; None for the last one and for a whole."""
    found = {name: _decoded(raw) for name, raw in members.items() if name != "data"}
    if found.get("has_more") is True:
        # OpenAI. Its next page is an opaque text.
        following = found.get("next_page")
        ask = f"page={shortened(following, _NEXT_CHARACTERS)}" if isinstance(following, str) else "its next page"
        return f"it is one page of more (has_more is true): fetch the next one with {ask}, and load it as well"
    # Langfuse has them in `meta`, the proxy of LiteLLM beside the items.
    counts = found["meta"] if isinstance(found.get("meta"), dict) else found
    if isinstance(cursor := counts.get("cursor"), str) and cursor:
        return (
            "it is one page of more (it has a cursor): fetch the next one with "
            f"cursor={shortened(cursor, _NEXT_CHARACTERS)}, and load it as well"
        )
    page, pages = counts.get("page"), counts.get("totalPages", counts.get("total_pages"))
    if isinstance(page, int) and isinstance(pages, int) and page < pages:
        return f"it is page {page} of {pages}: fetch the others with page={page + 1} and so on, and load them as well"
    return None


def said_of_error(members: Mapping[str, msgspec.Raw]) -> str | None:
    """What an API said in place of items; None where the members are those of something else."""
    for name in ("error", "message", "detail"):
        value = _decoded(members.get(name))
        text = value.get("message") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            return shortened(text, _ERROR_CHARACTERS)
    return None


def _decoded(raw: msgspec.Raw | None) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except UNREADABLE_JSON:
        return None
