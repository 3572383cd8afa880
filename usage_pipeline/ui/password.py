"""Password hashes by scrypt (RFC 7914), as PHC strings: `$scrypt$ln=15,r=8,p=3$<salt>$<hash>`, both in Base64 without `=`.

passlib and others write and read the same form.
"""

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

# OWASP's advice for one of the smaller memories: 32 MB and a quarter of a second for each try.
_COST, _BLOCKS, _PARALLEL = 15, 8, 3
_SALT_BYTES, _HASH_BYTES = 16, 32
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A parsed hash. It prints without the hash itself."""

    cost: int
    blocks: int
    parallel: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "PasswordHash":
        """`text` is as DAGSTER_UI_PASSWORD_HASH allows it."""
        _, _, parameters, salt, digest = text.split("$")
        cost, blocks, parallel = (int(one.partition("=")[2]) for one in parameters.split(","))
        return cls(cost, blocks, parallel, _decoded(salt), _decoded(digest))

    def is_of(self, password: bytes) -> bool:
        """Whether this is the hash of the password. Takes a quarter of a second and 32 MB, as we make hashes."""
        found = _scrypt(password, self.salt, self.cost, self.blocks, self.parallel, len(self.digest))
        return hmac.compare_digest(found, self.digest)


def hash_password(password: str) -> str:
    """A new hash of the password, with a new salt."""
    salt = os.urandom(_SALT_BYTES)
    digest = _scrypt(password.encode(), salt, _COST, _BLOCKS, _PARALLEL, _HASH_BYTES)
    return f"$scrypt$ln={_COST},r={_BLOCKS},p={_PARALLEL}${_encoded(salt)}${_encoded(digest)}"


def _scrypt(password: bytes, salt: bytes, cost: int, blocks: int, parallel: int, length: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=2**cost, r=blocks, p=parallel, maxmem=_MOST_BYTES, dklen=length)


def _encoded(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))
