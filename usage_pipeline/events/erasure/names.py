"""The pseudonym of an erased person, and ids that are nearly the one that was asked for."""

import hmac
import secrets
import unicodedata

import psycopg
from pydantic import SecretStr

from usage_pipeline.storage.sql import load

_MOST_NEAR = 20
_IDS_AT_ONCE = 5_000


def pseudonym_of(user_id: str, secret: SecretStr | None) -> str:
    """The same name for the same id and secret; it tells nothing to who has not the secret. Without one: a random name."""
    if secret is None:
        return f"erased-{secrets.token_hex(8)}"
    key = secret.get_secret_value().encode()
    return f"erased-{hmac.new(key, user_id.encode(), 'sha256').hexdigest()[:16]}"


def near_spellings(connection: psycopg.Connection, user_id: str) -> list[str]:
    """Stored ids that differ only in upper and lower case, in how Unicode composes characters, or in space around them.

    It reads all ids of users, a part at a time. At most 20 are returned, in their order.
    """
    wanted = _folded(user_id)
    near: list[str] = []
    with connection.transaction(), connection.cursor("user_ids") as cursor:
        cursor.itersize = _IDS_AT_ONCE
        cursor.execute(load("events/erasure/select_user_ids"))
        for (stored,) in cursor:
            if stored != user_id and _folded(stored) == wanted:
                near.append(stored)
    return sorted(near)[:_MOST_NEAR]


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()
