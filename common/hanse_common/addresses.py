"""Addresses `host:port`, where an IPv6 address stands in brackets (RFC 3986, section 3.2.2).

>>> split_address("[::1]:9443"), split_address("hanse.example.org:9443")
(('::1', 9443), ('hanse.example.org', 9443))
>>> join_address("::1", 9443), join_address("192.0.2.7", 9443)
('[::1]:9443', '192.0.2.7:9443')
>>> split_address("::1:9443")
Traceback (most recent call last):
    ...
ValueError: expected host:port; an IPv6 address stands in brackets, such as [::1]:9443
"""

from __future__ import annotations

import ipaddress
import re
import socket

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_LARGEST_PORT = 65_535


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an address, the host without brackets.

    Raises:
        ValueError: It has no host or no port from 1 to 65535, or an IPv6 address in it has no
            brackets.
    """
    host, _, port = address.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if ":" in host and not host.startswith("["):
        raise ValueError(
            "expected host:port; an IPv6 address stands in brackets, such as [::1]:9443"
        )
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = is_ipv6(bare) if host.startswith("[") else bool(_NAME.fullmatch(host))
    if not known or not 1 <= number <= _LARGEST_PORT:
        raise ValueError("expected host:port, such as hanse.example.org:9443 or [::1]:9443")
    return bare, number


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def is_ipv6(host: str) -> bool:
    """Whether a host is an IPv6 address, without brackets."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def bare_host(host: str) -> str:
    """Return a host without the brackets of an IPv6 address.

    >>> bare_host("[::]"), bare_host("0.0.0.0")
    ('::', '0.0.0.0')
    """
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def family_of(host: str) -> socket.AddressFamily:
    """The family of the sockets that bind a host."""
    return socket.AF_INET6 if is_ipv6(host) else socket.AF_INET


def listening(host: str, port: int, *, backlog: int | None = None) -> socket.socket:
    """Return a socket that listens at an address of this machine.

    Args:
        host: The address, without brackets; `::` is every address of IPv6 and of IPv4.
        port: The port.
        backlog: Connections that wait until they are accepted; the system's default if unset.

    Raises:
        OSError: The address is not this machine's, or the port is taken.
    """
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port), family=family_of(host), backlog=backlog, dualstack_ipv6=both
    )


def to_connect(host: str) -> str:
    """The address at which this machine reaches a server that binds a host.

    A wildcard can be bound, but connecting to it works on some systems only.

    >>> to_connect("0.0.0.0"), to_connect("::"), to_connect("192.0.2.7")
    ('127.0.0.1', '::1', '192.0.2.7')
    """
    host = bare_host(host)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
