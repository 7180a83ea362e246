"""Which IP addresses belong to the public internet, and not to this machine or its network."""

from __future__ import annotations

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Special in the IANA registries, but global in some versions of Python; one cloud has its metadata in the
# first.
_SPECIAL = tuple(ipaddress.ip_network(one) for one in ("192.0.0.0/24", "64:ff9b:1::/48"))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.ip_network("::/96")


def is_public(address: str) -> bool:
    """Whether an IP address, and any address embedded in it, belongs to the public internet."""
    try:
        ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_global(one) for one in (ip, *_carried(ip)))


def _is_global(ip: _Address) -> bool:
    # Python calls some multicast, and the former site-local addresses of IPv6, global.
    odd = ip.is_multicast or getattr(ip, "is_site_local", False) or any(ip in network for network in _SPECIAL)
    return ip.is_global and not odd


def _carried(ip: _Address) -> list[_Address]:
    """The IPv4 addresses that an IPv6 address reaches through a gateway or by mapping."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    carried: list[_Address | None] = [ip.ipv4_mapped, ip.sixtofour]
    if ip.teredo is not None:
        carried += ip.teredo
    if ip in _NAT64 or ip in _V4_COMPATIBLE:
        carried.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [one for one in carried if one is not None]
