"""The key that only the service has: SESSION_KEY, or 32 random bytes that the first process keeps in PostgreSQL."""

import hmac
import secrets

import psycopg

from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

_NAME = "session"
_KEY_BYTES = 32


def session_key(settings: Settings, connection: psycopg.Connection) -> bytes:
    """The key, the same in all processes of this database. It is made when there is none. Raises psycopg.Error."""
    if settings.session_key is not None:
        return settings.session_key.get_secret_value().encode()
    select = "select key from ops.service_keys where name = %(name)s"
    row = connection.execute(select, {"name": _NAME}).fetchone()
    if row is None:
        new = {"name": _NAME, "key": secrets.token_bytes(_KEY_BYTES)}
        connection.execute(load("access/insert_service_key"), new)
        row = connection.execute(select, {"name": _NAME}).fetchone()
    if row is None:
        raise RuntimeError("expected the key that was just kept in ops.service_keys, came none")
    return bytes(row[0])


def key_for(purpose: str, key: bytes) -> bytes:
    """A key of its own for each purpose, so that what was signed for one is worth nothing for another."""
    return hmac.digest(key, purpose.encode(), "sha256")
