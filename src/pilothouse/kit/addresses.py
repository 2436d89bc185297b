"""What an address says about where it leads."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine alone. Names other than localhost are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
