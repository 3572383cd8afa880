"""`usage-pipeline status`. With a date it is what it was before: the merchants' status of that day."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_pipeline.commands.merchants import merchants_status
from usage_pipeline.commands.options import AsJson
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from usage_pipeline.status.everything import Everything

_NAME_WIDTH, _STATE_WIDTH = 14, 6


def status(
    day: Annotated[
        str | None, typer.Argument(metavar="[DATE]", help="The older form of `merchants status DATE`.", hidden=True)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how everything is: servers, schema, backlog, freshness, alerts, dead letters, disk. It changes nothing.

    `ok` is as it should be, `look` needs somebody, `down` could not be read. Each line works alone. Status 1: something is
    down, or the schema is not that of this installation.
    """
    if day is not None:
        say(f"`status DATE` is `usage-pipeline merchants status {day}` now; this form goes on.", to_errors=True)
        merchants_status(day, as_json)
        return
    from usage_pipeline.status.everything import read_everything

    settings = load_settings()
    found = read_everything(settings)
    if as_json:
        print_json(_document(found, settings))
    else:
        _print(found, settings)
    raise typer.Exit(0 if found.is_readable else 1)


def _document(found: "Everything", settings: Settings) -> dict[str, Any]:
    return {
        "success": found.is_readable,
        "at": found.at.isoformat(),
        "version": version("usage-pipeline"),
        "time_zone": settings.usage_timezone,
        "parts": {
            part.name.lower().replace(" ", "_"): {"state": part.state, "said": part.said, **part.facts}
            for part in found.parts
        },
    }


def _print(found: "Everything", settings: Settings) -> None:
    from usage_pipeline.status.redis_parts import said_age

    say(
        f"usage_pipeline {version('usage-pipeline')} at {found.at:%Y-%m-%d %H:%M:%SZ}, days in {settings.usage_timezone}"
    )
    for part in found.parts:
        say(f"{part.state:<{_STATE_WIDTH}}{part.name:<{_NAME_WIDTH}}{part.said}")
    families = found.part("backlog").facts.get("families", [])
    if families:
        rows = [
            (
                one["family"],
                one["waiting"],
                one["open_batches"],
                said_age(one["last_stored_seconds"]),
                "late" if one["is_late"] else "",
            )
            for one in families
        ]
        print_table("Families", ["family", "waiting", "open batches", "last stored", ""], rows)
