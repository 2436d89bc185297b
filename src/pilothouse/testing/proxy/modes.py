"""How a proxy treats connections. Immutable values; durations are in seconds."""

from dataclasses import dataclass
from typing import Literal

End = Literal["client", "server"]
"""One end of a proxied connection."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Everything passes."""


@dataclass(frozen=True, slots=True)
class BlackHole:
    """Nothing passes either way, ends of connections included, and nothing is closed.

    On Linux not even the kernel answers: what is sent stays unacknowledged, and keepalive probes go unanswered, as when
    a firewall has forgotten the connection. Elsewhere only the data is held back. What was held back arrives after the
    next switch, as soon as the sender's kernel tries again.

    Attributes:
        accept: new connections are accepted, and then hear nothing. Otherwise connecting itself hangs (on Linux).
    """

    accept: bool = True


@dataclass(frozen=True, slots=True)
class Delay:
    """Everything arrives `seconds` later, in each direction. Throughput is bounded by the buffer of 256 KiB."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most so many bytes a second pass in each direction."""

    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Reset:
    """Both ends get a reset (RST) at once; new connections right after they were accepted."""


@dataclass(frozen=True, slots=True)
class HalfClose:
    """One end is told that the other has finished sending (FIN); the other direction goes on.

    Attributes:
        toward: who is told. What the other end still sends is thrown away.
    """

    toward: End = "client"


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is closed once `after_bytes` more bytes have passed toward one end."""

    after_bytes: int
    toward: End = "client"


@dataclass(frozen=True, slots=True)
class Refuse:
    """New connections are refused, as where nobody listens. Those that are open pass."""


Mode = Pass | BlackHole | Delay | Throttle | Reset | HalfClose | Cut | Refuse
