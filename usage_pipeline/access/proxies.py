"""Which proxies are believed, and what they say: whom they let in, and that the browser came by https. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers

from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed, identifier


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """TRUSTED_PROXIES and TRUSTED_USER_HEADER. `address` is always that of the connection: no header of a client changes it."""

    networks: Collection[IPv4Network | IPv6Network] = ()
    user_header: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> "TrustedProxies":
        return cls(settings.trusted_networks, settings.trusted_user_header)

    def has(self, address: str | None) -> bool:
        """Whether a connection from there is that of a proxy. None, and what is no address, is that of nobody."""
        try:
            found = ip_address(address or "")
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return any(found in network for network in self.networks)

    def user_of(self, headers: Headers, address: str | None) -> str | None:
        """Whom the proxy names: UTF-8 of 1 to 200 characters that print. None without one, or from anybody else."""
        if self.user_header is None or not self.has(address):
            return None
        values = headers.getlist(self.user_header)
        # Twice: one of them is what the client itself sent.
        if len(values) != 1:
            return None
        try:
            # The spaces of HTTP alone: what Latin-1 takes for one may be half of a letter.
            name = identifier(self.user_header, values[0].encode("latin-1").strip(b" \t"))
        except Malformed:
            return None
        return name if name.isprintable() else None

    def says_https(self, headers: Headers, address: str | None) -> bool:
        """Whether the proxy says that the browser came by https. One that says several things at once says nothing."""
        return self.has(address) and [one.strip().lower() for one in headers.getlist("x-forwarded-proto")] == ["https"]
