"""Which format the rows of a file have, by the names of their members. Pure; no I/O."""

from collections.abc import Collection

from usage_pipeline.events.files.names import FORMATS, Format
from usage_pipeline.events.files.packed import BrokenFile

_STARTS = ("startTime", "start_time")


def formats_by_members(names: Collection[str]) -> list[Format]:
    """The formats that rows with such members may have. No two are told apart by a member that may be missing."""
    there = set(names)
    found: list[Format] = []
    if "event_time" in there or ("event_id" in there and not there & set(_STARTS)):
        found.append("events")
    if "request_id" in there and "startTime" in there and there & {"spend", "call_type", "api_key"}:
        found.append("litellm-spend-logs")
    is_bucket = {"start_time", "end_time"} <= there and ("results" in there or "result" in there)
    if is_bucket or ("start_time" in there and "num_model_requests" in there):
        found.append("openai-usage")
    # Exports to a store have no type where its column was not chosen; they have a trace all the same.
    has_trace = there & {"traceId", "trace_id"}
    if "id" in there and has_trace and there & set(_STARTS):
        found.append("langfuse")
    return found


def chosen_format(names: Collection[str]) -> Format:
    """The one format of rows with such members. Raises BrokenFile, with all formats, for none and for several.

    It does not repeat the names: of a table without a header they are somebody's data.
    """
    found = formats_by_members(names)
    if len(found) == 1:
        return found[0]
    what = f"of {' and '.join(found)}" if found else "of none of them"
    raise BrokenFile(
        f"expected members of one of the formats {', '.join(FORMATS)}, came those {what}. Nothing was stored. Name the format"
    )
