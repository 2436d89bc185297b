"""A TCP proxy that fails as networks and hosts do: silence, latency, resets, half-closed and forgotten connections.

    async with TcpProxy("127.0.0.1", 5432) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/app"
        ...
        proxy.switch(BlackHole())            # nothing arrives, nothing is closed
        proxy.switch(Pass())                 # what was held back arrives
        proxy.switch(Reset(), new=False)     # connections that are open get a reset, new ones pass
        proxy.freeze()                       # the client's host lost power: the server is told nothing

It listens on 127.0.0.1 only and needs no privileges.
"""

from pilothouse.testing.proxy.modes import (
    BlackHole,
    Cut,
    Delay,
    End,
    HalfClose,
    Mode,
    Pass,
    Refuse,
    Reset,
    Throttle,
)
from pilothouse.testing.proxy.server import TcpProxy
from pilothouse.testing.proxy.stats import ProxyStats

__all__ = [
    "BlackHole",
    "Cut",
    "Delay",
    "End",
    "HalfClose",
    "Mode",
    "Pass",
    "ProxyStats",
    "Refuse",
    "Reset",
    "TcpProxy",
    "Throttle",
]
