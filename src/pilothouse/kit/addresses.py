"""What an address says about where it leads."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine alone. Names other than localhost are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
