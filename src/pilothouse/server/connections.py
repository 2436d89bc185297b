"""All open connections of a server: how many there may be, and which have waited too long.

One timer looks at all of them, at least once a second. So a request costs no timer of its own, and times are kept to
within that interval.
"""

import asyncio
import contextlib
import ipaddress
from collections import Counter
from typing import Protocol

from pilothouse.errors import PilothouseError
from pilothouse.observability.logs import get_logger
from pilothouse.server.limits import Limits
from pilothouse.server.refusals import too_many_connections

log = get_logger(__name__)

MOST_LINGERING = 32
"""Most refused connections that are kept open for a moment, so that their clients can read why."""
_LOG_SECONDS = 10.0


class Watched(Protocol):
    """A connection, as it is seen from here."""

    def check(self, now: float) -> None:
        """End what has taken too long. `now` is the loop's time."""
        ...

    def abort(self) -> None:
        """Close at once; nothing more is sent."""
        ...


class Connections:
    """Admits connections, watches them, and counts those that were refused or cut, by reason.

    Whoever is admitted must `leave`. At the limit, the oldest connection that has not made a request yet gives way to
    a new one; connections that have made one live on.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.lingering = 0
        self._open: dict[Watched, str | None] = {}
        self._per_address: dict[str, int] = {}
        self._without_request: dict[Watched, None] = {}  # oldest first
        self._refused: Counter[str] = Counter()
        self._interval = min(1.0, limits.shortest_seconds / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._log_at = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Watched, host: str | None) -> PilothouseError | None:
        """Take a new connection from the address `host` (None: a Unix socket) in, or say why not."""
        self._watch()
        address = self._limited_address(host)
        most = self.limits.connections_per_address
        if address is not None and self._per_address.get(address, 0) >= most:
            return too_many_connections()
        if len(self._open) >= self.limits.connections and not self.evict():
            return too_many_connections()
        self._enter(connection, address)
        self._without_request[connection] = None
        return None

    def requested(self, connection: Watched) -> None:
        """It has sent a whole request: it does not give way to others from now on."""
        self._without_request.pop(connection, None)

    def replace(self, old: Watched, new: Watched) -> None:
        """The connection `old` goes on as `new`, with another protocol."""
        address = self._open.get(old)
        self.leave(old)
        self._enter(new, address)

    def leave(self, connection: Watched) -> None:
        """It has ended. May be said more than once."""
        if connection not in self._open:
            return
        address = self._open.pop(connection)
        self._without_request.pop(connection, None)
        if address is not None:
            left = self._per_address[address] - 1
            if left:
                self._per_address[address] = left
            else:
                del self._per_address[address]

    def evict(self) -> bool:
        """Close the oldest connection that has made no request. False: there is none."""
        oldest = next(iter(self._without_request), None)
        if oldest is None:
            return False
        self.leave(oldest)
        self.count("evicted")
        oldest.abort()
        return True

    def count(self, reason: str) -> None:
        """Something was refused or cut; the log says how often, at most every ten seconds."""
        self._refused[reason] += 1
        self._watch()

    def write_log(self) -> None:
        """Log what was counted since the last line."""
        if self._refused:
            log.warning("requests_refused", reasons=dict(self._refused), open=len(self._open))
            self._refused.clear()

    def _enter(self, connection: Watched, address: str | None) -> None:
        self._open[connection] = address
        if address is not None:
            self._per_address[address] = self._per_address.get(address, 0) + 1

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            try:
                connection.check(now)
            except Exception:  # one connection's fault must not end the watch over all others
                log.exception("connection_check_failed")
                self._cut(connection)
        if self._refused and now >= self._log_at:
            self.write_log()
            self._log_at = now + _LOG_SECONDS
        if self._open or self._refused:
            self._watch()

    def _cut(self, connection: Watched) -> None:
        self.leave(connection)
        with contextlib.suppress(Exception):
            connection.abort()

    def _limited_address(self, host: str | None) -> str | None:
        """What connections of `host` are counted under; None: they are not."""
        if host is None or not self.limits.connections_per_address:
            return None
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return host
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_loopback or any(address in network for network in self.limits.proxies):
            return None
        if isinstance(address, ipaddress.IPv6Address):  # one subscriber has a whole /64
            return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address)
