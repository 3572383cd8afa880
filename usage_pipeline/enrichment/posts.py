"""Fetches one post of the external API. The result is always a post; if the API fails, it is the fallback (contracts §4)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from random import Random

import httpx
import msgspec

from usage_pipeline.enrichment.retry_rules import Failure, RetryPolicy, failure_of_error, failure_of_status, wait_before
from usage_pipeline.settings import Settings
from usage_pipeline.values import MAX_ID_CHARACTERS, UNREADABLE_JSON

FALLBACK_TITLE = "Fallback: Post Unavailable"
FALLBACK_BODY = "External API is currently unavailable"
MAX_ANSWER_BYTES = 1_000_000
_random = Random().random  # noqa: S311  # spreads waits, guards nothing
_log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Post:
    """A post, or the fallback in its place. Only a fallback has `user_id` None."""

    id: int
    user_id: int | str | None
    title: str
    body: str
    is_fallback: bool = False

    def document(self) -> dict[str, int | str | bool | None]:
        """The answer of contracts §4."""
        if self.is_fallback:
            return {"id": self.id, "title": self.title, "body": self.body, "error": True}
        return {"id": self.id, "userId": self.user_id, "title": self.title, "body": self.body}


class _Upstream(msgspec.Struct, rename="camel"):
    """The answer of the API. Other members are ignored."""

    id: int
    user_id: int | str
    title: str
    body: str


def fallback(post_id: int) -> Post:
    return Post(post_id, None, FALLBACK_TITLE, FALLBACK_BODY, is_fallback=True)


def external_client(settings: Settings, *, connections: int) -> httpx.AsyncClient:
    """A client of EXTERNAL_API_BASE_URL; the caller closes it.

    It does not retry, keep cookies, or take a proxy or password from the environment. It follows no redirect: the API has none,
    and a redirect could lead to a server that nobody meant. It asks for uncompressed answers, so that their size is known.
    """
    return httpx.AsyncClient(
        base_url=settings.external_api_base_url,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"usage_pipeline/{version('usage-pipeline')}",
        },
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        # For a single read or write; fetch_post bounds each try as a whole.
        timeout=settings.external_api_timeout / 1000,
        trust_env=False,
    )


async def fetch_post(
    client: httpx.AsyncClient,
    post_id: int,
    policy: RetryPolicy,
    *,
    sleep: Sleep = asyncio.sleep,
    clock: Clock = lambda: datetime.now(UTC),
    random: Callable[[], float] = _random,
) -> Post:
    """The post, or after the last try the fallback and a line in the log. Raises only a cancellation.

    It takes at most `policy.most_seconds`: 35 s by default, for all tries (EXTERNAL_API_TIMEOUT each) and the waits between.
    An answer that is not retried (another 4xx, a redirect, not the wanted post) gives the fallback at once. Existing clients
    know a missing post by the member `error`; the log has the reason.
    """
    for number in range(1, policy.tries + 1):
        outcome = await _tried(client, post_id, policy, clock)
        if isinstance(outcome, Post):
            return outcome
        wait = wait_before(number + 1, outcome, policy, random)
        if wait is None:
            _log.warning("external post %d: fallback after try %d: the API %s", post_id, number, outcome.reason)
            break
        await sleep(wait)
    return fallback(post_id)


async def _tried(client: httpx.AsyncClient, post_id: int, policy: RetryPolicy, clock: Clock) -> Post | Failure:
    try:
        async with asyncio.timeout(policy.timeout_seconds), client.stream("GET", f"posts/{post_id}") as response:
            if response.status_code != 200:
                return failure_of_status(response.status_code, response.headers.get("retry-after"), clock())
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                return Failure("answered with a compressed body, which we did not ask for", is_retried=False)
            body = await _received(response)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError) as error:
        return failure_of_error(error)
    if body is None:
        return Failure(f"answered with more than {MAX_ANSWER_BYTES} bytes", is_retried=False)
    return _post_of(body, post_id)


async def _received(response: httpx.Response) -> bytes | None:
    """The body. None as soon as it is longer than the limit."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            return None
    return bytes(body)


def _post_of(body: bytes, post_id: int) -> Post | Failure:
    try:
        came = msgspec.json.decode(body, type=_Upstream)
    except msgspec.ValidationError:
        return Failure("answered with other members or types than id, userId, title and body", is_retried=False)
    except UNREADABLE_JSON:
        return Failure("answered with a body that is not JSON", is_retried=False)
    if came.id != post_id:
        return Failure("answered with another post", is_retried=False)
    if not 0 < len(str(came.user_id)) <= MAX_ID_CHARACTERS or "\0" in f"{came.user_id}{came.title}{came.body}":
        # PostgreSQL's text cannot hold it.
        return Failure("answered with a userId that is too long, or with a NUL character", is_retried=False)
    return Post(came.id, came.user_id, came.title, came.body)
