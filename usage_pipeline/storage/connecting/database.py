"""Where a database is and how to log in there: what every connection of ours asks libpq for."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from usage_pipeline.settings import Settings
from usage_pipeline.storage.connecting.passwords import ChangingPassword, changing_password

APPLICATION_NAME = "usage_pipeline"
# Where Debian, Red Hat, SUSE, and Alpine and macOS keep the certificates of all authorities that the system knows.
_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class Database:
    """A database: its URL as libpq reads it, and the password that takes the place of the URL's one, if there is one."""

    url: str = field(repr=False)
    timeout_seconds: float
    password: ChangingPassword | None = None

    @classmethod
    def of_usage(cls, settings: Settings) -> "Database":
        """That of the usage tables: DATABASE_URL."""
        return cls(
            settings.database_url.get_secret_value(), settings.connect_timeout_seconds, changing_password(settings)
        )

    @classmethod
    def of_dagster(cls, settings: Settings, url: str) -> "Database":
        """That of Dagster's storage. Where its user is that of DATABASE_URL and has no password in the URL, it has the same."""
        try:
            usage, storage = conninfo_to_dict(settings.database_url.get_secret_value()), conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            return cls(url, settings.connect_timeout_seconds)  # connecting says that it cannot be read
        is_same = usage.get("user") == storage.get("user") and not storage.get("password")
        return cls(url, settings.connect_timeout_seconds, changing_password(settings) if is_same else None)

    def may_be_refused(self, error: psycopg.OperationalError) -> bool:
        """Whether it may be the password that failed: one was asked for, and there is no connection.

        libpq has no code for that, only texts in the language of the server. Of several hosts it tells of the last one only.
        """
        parts, failed = conninfo_to_dict(self.url), error.pgconn
        has_many = "," in f"{parts.get('host', '')}{parts.get('hostaddr', '')}"
        return has_many or (failed is not None and (failed.used_password or failed.needs_password))

    def options(self, password: str | None) -> dict[str, Any]:
        """What to ask libpq for beside the URL, with this password."""
        return connection_options(self.url, self.timeout_seconds) | ({"password": password} if password else {})


def connection_options(url: str, timeout_seconds: float) -> dict[str, Any]:
    """What every connection of ours asks libpq for, beside `url`."""
    return system_authorities(url) | {
        "autocommit": True,
        "connect_timeout": max(2, round(timeout_seconds)),
        "application_name": APPLICATION_NAME,
        "keepalives_idle": 30,
        # A standby answers too, but stores nothing: what is claimed would only wait.
        "target_session_attrs": "read-write",
    }


def system_authorities(url: str) -> dict[str, str]:
    """What to say instead of `sslrootcert=system`; empty when `url` does not say so, or when the libraries find it themselves.

    The OpenSSL in the wheels of psycopg and psycopg2 looks for the system's authorities where it was built, where no other
    machine has any. SSL_CERT_FILE and SSL_CERT_DIR, which it heeds, stay the operator's choice.
    """
    try:
        asked = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return {}  # connecting says what is wrong with it
    # With `system` libpq verifies in full, and refuses to do less.
    if asked.get("sslrootcert") != "system" or asked.get("sslmode", "verify-full") != "verify-full":
        return {}
    file = next((file for file in _SYSTEM_AUTHORITIES if Path(file).is_file()), None)
    if file is None or "SSL_CERT_FILE" in os.environ or "SSL_CERT_DIR" in os.environ:
        return {}
    return {"sslrootcert": file, "sslmode": "verify-full"}
