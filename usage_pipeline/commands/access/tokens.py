"""`usage-pipeline tokens`: made, listed, revoked."""

import logging
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

tokens_app = typer.Typer(no_args_is_help=True, help="Tokens of the HTTP service.")


@tokens_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="A name by which you find the token in lists.")],
    scope: Annotated[
        list[str], typer.Option(help="What the token may do: ingest, read or correct. Repeat the option for more.")
    ],
    expires: Annotated[
        str | None,
        typer.Option(help="When the token ends: in days or hours such as 90d or 12h, or when a day YYYY-MM-DD begins."),
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(help="Days until the token ends.")] = None,
    never_expires: Annotated[
        bool, typer.Option("--never-expires", help="The token works until it is revoked.")
    ] = False,
    quota: Annotated[int | None, typer.Option(help="The most requests per day. Default: no limit.")] = None,
    team: Annotated[
        list[str] | None,
        typer.Option(
            help="Bind the token to this team: it sends and sees only its events. Repeat the option for more."
        ),
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="The same for a service. Repeat the option for more.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="The same for a user, by id. Repeat the option for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Say when it ends: --expires, --expires-in-days or --never-expires. Only its hash is stored.

    A bound token needs one of its teams, one of its services and one of its users, as far as it has any. What an event does not
    say is the first one.
    """
    from usage_pipeline.access.tokens import create_token, expiry_of
    from usage_pipeline.bindings import Bounds
    from usage_pipeline.storage.postgres import connect

    said = sum((expires is not None, expires_in_days is not None, never_expires))
    if said != 1:
        came = "none of them" if not said else f"{said} of them"
        raise UsageError(
            "when does the token end? Expected one of --expires (such as 90d or 2030-01-31), --expires-in-days and"
            f" --never-expires, came {came}"
        )
    bounds = Bounds.of(team or (), service or (), user or ())
    settings = load_settings()
    expires_at = expires and expiry_of(expires, now=datetime.now(UTC), timezone=settings.timezone)
    with closing(connect(settings)) as connection:
        made = create_token(
            connection,
            name,
            scope,
            expires_in_days=expires_in_days,
            expires_at=expires_at or None,
            quota=quota,
            bounds=bounds,
        )
    if as_json:
        print_json(asdict(made))
        return
    print(made.token)
    # In `TOKEN=$(…)` this is all that one sees, and an id would pass for the secret.
    note = (
        f'Made token "{name}". The secret is the line on standard output, from upt_ to its end; it is shown this once. '
        f"Its first part, {made.token_prefix}, is no secret: by it you find and revoke the token."
    )
    say(note, to_errors=True)


@tokens_app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List the tokens, oldest first, with those that expired or were revoked."""
    from usage_pipeline.access.tokens import list_tokens
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        tokens = list_tokens(connection)
    if as_json:
        print_json({"tokens": [asdict(token) for token in tokens]})
        return
    columns = [
        "token",
        "prefix",
        "name",
        "sign-in",
        "scopes",
        "bound to",
        "expires",
        "revoked",
        "quota",
        "uses",
        "last used",
    ]
    rows = [
        (
            token.token_id,
            token.token_prefix,
            token.name,
            token.sign_in,
            ", ".join(token.scopes),
            token.bounds.said,
            f"{token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "never",
            f"{token.revoked_at:%Y-%m-%d %H:%M}" if token.revoked_at else "",
            token.quota,
            token.usage_count,
            f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "",
        )
        for token in tokens
    ]
    # Either names the token; the prefix is the short one.
    print_table(counted(len(rows), "token"), columns, rows, to_copy={"prefix"})


@tokens_app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="Id or prefix of the token.")],
    as_json: AsJson = False,
) -> None:
    """End a token, at once and for good. To do it twice changes nothing."""
    import redis

    from usage_pipeline.access.cache import CACHE_SECONDS, forget
    from usage_pipeline.access.tokens import revoke_token
    from usage_pipeline.storage.postgres import connect
    from usage_pipeline.storage.redis import RedisUnavailable

    settings = load_settings()
    with closing(connect(settings)) as connection:
        prefix = revoke_token(connection, token)
    try:
        forget(settings, prefix)
        problem = None
    except (redis.RedisError, redis.exceptions.RedisClusterException, RedisUnavailable, OSError) as error:
        logging.getLogger(__name__).debug("token cache", exc_info=error)
        problem = (
            f"{prefix} is revoked, but Redis does not answer: a server that does not reach PostgreSQL either may take it for"
            f" up to {CACHE_SECONDS} s more. Run this again when Redis is back."
        )
    if as_json:
        print_json({"success": problem is None, "token_prefix": prefix, "error": problem})
    else:
        say(problem or f"{prefix} is revoked.", to_errors=problem is not None)
    raise typer.Exit(0 if problem is None else 1)
