"""`/month`, for a browser without JavaScript: signs in by a form, shows the cost of a month by team, signs out by a form."""

import re
from collections.abc import Mapping
from datetime import date
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import Response

from usage_pipeline.access.sessions import Sessions
from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.answers.headers import plain_page_headers
from usage_pipeline.api.answers.negotiation import prefers_html
from usage_pipeline.api.auth import bearer_of, checking, requires
from usage_pipeline.api.explore.parameters import expect_answerable, within
from usage_pipeline.api.explore.routes import QUESTION_SECONDS, answerable, shown_data_time
from usage_pipeline.api.ingest.bodies import media_type, received
from usage_pipeline.api.month.costs import Month, costs_of, question_of
from usage_pipeline.api.month.page import FIRST_YEAR, PATH, SIGN_OUT, TOKEN, month_page, sign_in_page, trouble_page
from usage_pipeline.api.problems import Problem, RefusalResponse
from usage_pipeline.api.session.browser import clear_cookie, cookie_of, set_cookie, user_of
from usage_pipeline.api.session.opening import accepted, expect_own_form, found, opened
from usage_pipeline.api.usage.queries import parameters_of, shown, wrong
from usage_pipeline.api.usage.routes import Reads
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.storage.quick_redis import RedisBusy

_MOST_BYTES = 4 * 1024
_FORM = ("application/x-www-form-urlencoded",)
# As it stands at the end of the link of an invitation, or alone.
_INVITE = re.compile(r"(?:.*#invite=)?(upi_[\w-]+)")
# What a header can hold: anything else is no token.
_TOKEN = re.compile(r"[\x21-\x7e]+")
_signed_in = requires("read", takes_bound=True)
router = APIRouter()


@router.get(f"/{PATH}", include_in_schema=False)
async def month(request: Request) -> Response:
    """The table for who is signed in, and the form for others. A program gets a problem document in place of the form."""
    try:
        caller = await _signed_in(request)
        content = await _shown(request, caller)
    except (Problem, RedisBusy) as error:
        return _told(request, error)
    return Response(content, media_type="text/html", headers=plain_page_headers())


@router.post(f"/{PATH}", include_in_schema=False)
async def form(request: Request) -> Response:
    """Signs in or out, and sends the browser to the table."""
    try:
        expect_own_form(request)
        parameters_of(request, ())
        fields = await _fields(request)
        cookie = await _signed_out(request) if fields == {SIGN_OUT: "1"} else await _entered(request, fields)
    except (Problem, RedisBusy) as error:
        return _told(request, error)
    return Response(status_code=303, headers={**plain_page_headers(), "Location": PATH, "Set-Cookie": cookie})


async def _shown(request: Request, caller: AccessToken) -> bytes:
    reads: Reads = request.app.state.reads
    zone = reads.settings.timezone
    today = current_day(zone)
    question = question_of(_first_day(parameters_of(request, ("month",)), today), within(caller.binding))
    expect_answerable(question, caller.binding)

    def answer() -> Month:
        with reads.storing.pool.connection() as connection, answerable(connection, question):
            return costs_of(connection, question, zone, QUESTION_SECONDS)

    with reads.questions.one(caller.token_id):
        found = await reads.storing.in_thread(answer)
    return month_page(
        found,
        shown_data_time(found.as_of, caller),
        today,
        zone,
        bounds=caller.binding.bounds.said if caller.binding else "",
        can_sign_out=_has_session(request),
    )


def _first_day(parameters: Mapping[str, str], today: date) -> date:
    running = today.replace(day=1)
    given = parameters.get("month")
    if given is None:
        return running
    match = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", given)
    first = date(max(1, int(match[1])), int(match[2]), 1) if match else None
    if first is None or not first.year >= FIRST_YEAR or first > running:
        raise wrong("month", f"one from {FIRST_YEAR}-01 to {running:%Y-%m}, as YYYY-MM", shown(given))
    return first


async def _fields(request: Request) -> dict[str, str]:
    media_type(request, _FORM)
    reads: Reads = request.app.state.reads
    body = await received(request, most=_MOST_BYTES, seconds=reads.settings.body_timeout_seconds, limit="")
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=2)
    except ValueError:
        fields = []
    if [name for name, _ in fields] not in ([TOKEN], [SIGN_OUT]):
        raise Problem(422, "invalid-request", f"body: expected the field {TOKEN} or {SIGN_OUT}, came others")
    return dict(fields)


async def _entered(request: Request, fields: Mapping[str, str]) -> str:
    """The header Set-Cookie of who shows a token or an invitation."""
    text = fields.get(TOKEN, "").strip()
    if not _TOKEN.fullmatch(text):
        raise Problem(
            422, "invalid-request", f"{TOKEN}: expected one that begins with upt_ and has no spaces, came another text"
        )
    invitation = _INVITE.fullmatch(text)
    cookie = await accepted(request, invitation[1]) if invitation else await opened(request, text)
    return set_cookie(request, cookie, (await found(request, cookie)).expires_at)


async def _signed_out(request: Request) -> str:
    """The header Set-Cookie that takes the cookie away; the session that it opened ends."""
    sessions: Sessions = request.app.state.sessions
    cookie = cookie_of(request)
    if cookie is not None:
        with checking():
            await sessions.close(cookie)
    return clear_cookie(request)


def _has_session(request: Request) -> bool:
    """Whether there is something to sign out of: who is named by a proxy signs out there."""
    return cookie_of(request) is not None and user_of(request) is None


def _told(request: Request, error: Problem | RedisBusy) -> Response:
    """As a page for a browser: who is not known gets the form, and hears what was wrong, if something came."""
    if not prefers_html(request.headers.get("accept", "")):
        raise error
    problem = problems.of_busy_redis(error) if isinstance(error, RedisBusy) else error
    detail = problems.noted(request, problem)
    is_about_sign_in = problem.status in (401, 410) or request.method == "POST"
    came = request.method == "POST" or cookie_of(request) is not None or bearer_of(request) is not None
    if is_about_sign_in:
        content = sign_in_page(detail if came else "")
    else:
        content = trouble_page(problem.status, detail, can_sign_out=_has_session(request))
    headers = {**plain_page_headers(), **problem.headers}
    return RefusalResponse(content, problem.status, headers, media_type="text/html")
