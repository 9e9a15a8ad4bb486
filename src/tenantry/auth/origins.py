"""Where a request comes from, as far as it says."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, Self

from tenantry.errors import InvalidValueError

__all__ = ["NOWHERE", "Address", "Origin"]

Address = IPv4Address | IPv6Address

_USER_AGENT_BYTES: Final = 1024
_NETWORK_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """An address and what the client calls itself; either may be unknown.

    Args:
        address: Without a zone; an IPv4 address inside an IPv6 one is taken out.
        user_agent: As far as it can be stored.
    """

    address: Address | None = None
    user_agent: str | None = None

    @classmethod
    def of(cls, address: Address | str | None, user_agent: str | None) -> Self:
        """Read what a request says of itself.

        Raises:
            InvalidValueError: ``address`` is no IP address. A proxy's header may hold several.
        """
        return cls(_address(address), _user_agent(user_agent))

    @property
    def network(self) -> str | None:
        """What attempts are counted by: the address, or the /64 that an IPv6 client has."""
        if isinstance(self.address, IPv6Address):
            return str(IPv6Network((int(self.address), _NETWORK_BITS), strict=False))
        return None if self.address is None else str(self.address)


_NAT64: Final = IPv6Network("64:ff9b::/96")
NOWHERE: Final = Origin()


def _address(given: Address | str | None) -> Address | None:
    if given is None or given == "":
        return None
    try:
        address = ip_address(given.strip()) if isinstance(given, str) else ip_address(given)
    except ValueError:
        raise InvalidValueError(
            "The address is no IP address. Give the client's own, as the server or a proxy that "
            "you trust has seen it."
        ) from None
    if isinstance(address, IPv6Address):
        if address in _NAT64:  # RFC 6052: all of IPv4 is in one /96
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or IPv6Address(int(address))  # without a zone
    return address


def _user_agent(given: str | None) -> str | None:
    # It is the client's to choose: what cannot be stored, or would steer a terminal or begin a line
    # in a log, is left out and not refused.
    if not given or not isinstance(given, str):
        return None
    text = "".join(each for each in given[:_USER_AGENT_BYTES] if each.isprintable())
    return text.encode()[:_USER_AGENT_BYTES].decode("utf-8", "ignore") or None
