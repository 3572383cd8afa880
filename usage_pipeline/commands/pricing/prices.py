"""`usage-pipeline prices`: prices of one's own, imported, listed, exported; and what a model costs and why."""

import io
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_document, print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

prices_app = typer.Typer(no_args_is_help=True, help="Prices of models: your own, above those of the price package.")


@prices_app.command("import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with provider, model, then any of priced_as, factor, service_tier, valid_from, valid_until, input_mtok, "
            "output_mtok, cache_read_mtok and the other price keys of the package.",
        ),
    ],
    replace_all: Annotated[
        bool, typer.Option("--replace-all", help="The file is all there is: rows that it does not have go.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import own prices. A row takes the place of the one with the same provider, model, service_tier and valid_from."""
    from usage_pipeline.events.pricing.lookups import add_earlier_lookups, current_version
    from usage_pipeline.events.pricing.own_file import read_own_prices
    from usage_pipeline.events.pricing.own_versions import import_prices
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        rows = read_own_prices(file)
        if not rows and not replace_all:
            raise UsageError(f"{file}: expected at least one price, came none; to take all away, add --replace-all")
        done = import_prices(connection, list(rows), replaces_all=replace_all)
        price_version = current_version(connection)
        add_earlier_lookups(connection, price_version)
    if as_json:
        print_json({"success": True, "price_version": price_version, **asdict(done)})
        return
    counts = [(f"own {done.version}", done.rows, done.added, done.changed, done.removed)]
    print_table(f"Imported {file.name}", ["version", "rows", "new", "changed", "removed"], counts)
    say(
        f"Days that are rolled up for the first time from now on have {price_version}. Other days, today too if it has usage, "
        "keep their prices until: usage-pipeline recost --from DAY --to DAY"
    )


@prices_app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List the own prices that new days use."""
    from usage_pipeline.events.pricing.lookups import current_version
    from usage_pipeline.events.pricing.own_file import as_texts
    from usage_pipeline.events.pricing.own_versions import newest_version, own_prices
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        price_version = current_version(connection)
        rows = as_texts(own_prices(connection, newest_version(connection)))
    if as_json:
        print_json({"price_version": price_version, "prices": rows})
        return
    fixed = ["provider", "model", "priced_as", "factor", "service_tier", "valid_from", "valid_until"]
    cells = [
        (
            *(row.get(name, "") for name in fixed),
            ", ".join(f"{name} {text}" for name, text in row.items() if name not in fixed),
        )
        for row in rows
    ]
    print_table(f"{counted(len(rows), 'own price')}; new days have {price_version}", [*fixed, "US dollars"], cells)


@prices_app.command("show")
def show(
    provider: Annotated[str, typer.Argument(help="The provider, as events name it.")],
    model: Annotated[str, typer.Argument(help="The model, as events name it.")],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="A time such as 2026-11-01T08:00:00Z, or a day. Default: now.")
    ] = None,
    tier: Annotated[str, typer.Option(help="The tier of the service, such as batch. Default: none.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show what a model costs and why: which layer each price is from, and from when. Status 1: it has no price."""
    from usage_pipeline.events.pricing.explanation import explain
    from usage_pipeline.events.pricing.lookups import current_version
    from usage_pipeline.events.pricing.own_file import moment
    from usage_pipeline.events.pricing.own_versions import newest_version, own_prices
    from usage_pipeline.storage.postgres import connect

    asked = moment("--at", at) or datetime.now(UTC)
    with closing(connect(load_settings())) as connection:
        price_version = current_version(connection)
        found = explain(provider, model, tier, asked, own_prices(connection, newest_version(connection)))
    if as_json:
        print_json({"price_version": price_version, **asdict(found)})
        raise typer.Exit(0 if found.is_priced else 1)
    asked_name = f"{provider}/{model}"
    name = asked_name + (f", tier {tier}" if tier else "")
    columns = [
        "price",
        "US dollars",
        "from",
        "of",
        "factor",
        "from input tokens",
        "since",
        "until",
        "time of day (UTC)",
    ]
    # What is as usual is left out, such as the whole day: a column without a value goes where there is little room.
    rows = [
        (
            *(
                one.price_key,
                one.usd,
                one.layer,
                "" if one.of == asked_name else one.of,
                one.factor,
                one.input_tokens_from or None,
            ),
            *(one.valid_from, one.valid_until, _hours(one.daily_from, one.daily_until)),
        )
        for one in found.prices
    ]
    print_table(f"{name} at {found.at} by {price_version}", columns, rows)
    if found.understood_as:
        say(f"Understood as {found.understood_as}.")
    for row in found.own_rows:
        say(f"Own price that holds: {row}")
    for note in found.notes:
        say(f"Note: {note}.", to_errors=not found.is_priced)
    raise typer.Exit(0 if found.is_priced else 1)


def _hours(start: str, end: str) -> str:
    return "" if (start, end) == ("00:00", "24:00") else f"{start} to {end}"


@prices_app.command("export")
def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write. Default: standard output.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the own prices that new days use as CSV. To import the file again gives the same."""
    from usage_pipeline.events.pricing.own_file import write_own_prices
    from usage_pipeline.events.pricing.own_versions import newest_version, own_prices
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        version = newest_version(connection)
        rows = own_prices(connection, version)
    text = io.StringIO()
    write_own_prices(rows, text)
    if file is None and not as_json:
        print_document(text.getvalue())
        return
    if file is not None:
        _write(file, text.getvalue())
    if as_json:
        content = {} if file is not None else {"csv": text.getvalue()}
        print_json({"success": True, "own_version": version, "rows": len(rows), **content})
    else:
        say(f"Wrote {counted(len(rows), 'own price')} to {file}.", to_errors=True)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: expected a file that can be written: {error.strerror}") from None
