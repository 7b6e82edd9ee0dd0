"""Host names in requests: whether one means this machine, or a name that was agreed on.

A web page can make a browser send requests to this machine under the page's own host name (DNS
rebinding). The `Host` header shows it, so each endpoint compares that name.

>>> host_name("Hanse.example.org:8443"), host_name("[::1]:80"), host_name("::1")
('hanse.example.org', '::1', '::1')
>>> is_loopback("localhost:9466"), is_loopback("127.0.0.1"), is_loopback("evil.example.org")
(True, True, False)
"""

from __future__ import annotations

import ipaddress


def host_name(host: str) -> str:
    """Return the name in a `Host` header, in lower case and without port and brackets."""
    # Only host:port and [host]:port have a port: a bare IPv6 address has several colons.
    name = host.rpartition(":")[0] if host.count(":") == 1 or "]:" in host else host
    return (name or host).strip("[]").lower()


def is_loopback(host: str) -> bool:
    """Return whether an address, or a `Host` header, is this machine's loopback."""
    name = host_name(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
