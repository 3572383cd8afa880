"""Copies of tokens for Redis that nobody without the key can make, alter, or use after their time. Pure."""

import hmac

import msgspec

from usage_pipeline.access.tokens import AccessToken

_SIGNATURE = b',"signature":"'
_END = b'"}'
# HMAC-SHA256 in hexadecimal digits.
_DIGITS = 64
MOST_BYTES = 163_840
"""No copy is longer: a token has a name and at most 100 values that it is bound to, of at most 200 characters each."""


class _Life(msgspec.Struct):
    valid_until: float


def signed_copy(token: AccessToken, key: bytes, *, valid_until: float) -> bytes:
    """The row as JSON (contracts §1.7), the epoch seconds until which it is valid, and a signature over all before it."""
    row = msgspec.json.encode(token)[:-1] + b',"valid_until":%.0f' % valid_until
    return row + _SIGNATURE + _signature(key, row) + _END


def token_of(copy: bytes, key: bytes, token_prefix: str, *, now: float) -> AccessToken | None:
    """The token of a copy that was signed with this key for this prefix and is valid at `now` (epoch seconds), or None."""
    row, rest = copy[: -_DIGITS - len(_SIGNATURE + _END)], copy[-_DIGITS - len(_SIGNATURE + _END) :]
    if not hmac.compare_digest(rest, _SIGNATURE + _signature(key, row) + _END):
        return None
    try:
        token = msgspec.json.decode(copy, type=AccessToken)
        life = msgspec.json.decode(copy, type=_Life)
    except msgspec.DecodeError:
        return None  # of another version, with the same key
    # With a name that differs it is the copy of another token.
    return token if token.token_prefix == token_prefix and now < life.valid_until else None


def _signature(key: bytes, row: bytes) -> bytes:
    return hmac.digest(key, row, "sha256").hex().encode()
