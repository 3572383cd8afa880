"""`usage-pipeline invite`: lets a person sign in to the page, without a shell and without a token."""

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, say
from usage_pipeline.setting_types import PlainHttpUrl
from usage_pipeline.settings import load_settings

# What `dev` and `api` serve.
_HERE = "http://127.0.0.1:8000"


def invite(
    name: Annotated[str, typer.Argument(help="The name of the person, as lists show it.")],
    team: Annotated[
        list[str] | None, typer.Option(help="The person sees this team only. Repeat the option for more.")
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="The same for a service. Repeat the option for more.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="The same for a user, by id. Repeat the option for more.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What the person sees: read; users: ids of users, and tags; prompts: texts of requests. Repeat the option for "
            "more. Default: read and users."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="When the sign-in ends: in days or hours such as 90d or 12h, or when a day YYYY-MM-DD begins. "
            "Default: 30d; with --header it does not end."
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of the service, as the person reaches it. Default: that of `dev`.")
    ] = None,
    header: Annotated[
        bool,
        typer.Option(
            "--header", help="Print no link: a proxy signs the person in by this name. See TRUSTED_USER_HEADER."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Invite a person to look at usage: prints a link that is good once, for one day. `tokens revoke` takes it back.

    Invited again with --header, a person sees what was said last.
    """
    from usage_pipeline.access import invitations
    from usage_pipeline.access.tokens import expiry_of
    from usage_pipeline.bindings import Bounds
    from usage_pipeline.storage.postgres import connect

    if header and url is not None:
        raise UsageError("expected --url or --header, came both: with --header there is no link")
    address = _address(url or _HERE)
    settings = load_settings()
    now = datetime.now(UTC)
    person = invitations.Person(
        name,
        scopes=scope or invitations.DEFAULT_SCOPES,
        bounds=Bounds.of(team or (), service or (), user or ()),
        expires_at=expiry_of(expires, now=now, timezone=settings.timezone) if expires else None,
    )
    with closing(connect(settings)) as connection:
        if header:
            made = invitations.let_in_by_proxy(connection, person)
            if as_json:
                print_json({"token_id": made.token_id, "token_prefix": made.token_prefix})
            else:
                say(f'Whom a proxy of TRUSTED_PROXIES names "{name}" is let in. {_way_back(made.token_prefix)}')
            return
        invited = invitations.invite(connection, person)
    link = f"{address}/#invite={invited.code}"
    if as_json:
        known = asdict(invited)
        del known["code"]
        print_json({"link": link, **known})
        return
    say(link)
    elsewhere = "" if url else " It leads to this machine: say --url for a person elsewhere."
    say(
        f'The link is for "{name}": it is good once, until {invited.expires_at:%Y-%m-%d %H:%M} UTC, and is not shown again.'
        f"{elsewhere} {_way_back(invited.token_prefix)}",
        to_errors=True,
    )


def _way_back(token_prefix: str) -> str:
    return f"To take it back: usage-pipeline tokens revoke {token_prefix}"


def _address(url: str) -> str:
    try:
        found: str = TypeAdapter(PlainHttpUrl).validate_python(url)
    except ValidationError:
        raise UsageError(
            "--url: expected an http:// or https:// address without a password, a query or a fragment, came another text"
        ) from None
    return found
