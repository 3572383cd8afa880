"""What a check of an asset found, as its page in Dagster shows it."""

from typing import Any

import dagster as dg


def problems(result: Any) -> list[str]:
    """The rows of the table `found` of a result or of its stored evaluation; empty when it found nothing."""
    found = result.metadata.get("found")
    if found is None:
        return []
    assert isinstance(found, dg.TableMetadataValue), "names from outside are no Markdown"
    return [str(record.data["problem"]) for record in found.records]
