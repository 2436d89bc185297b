"""The network: a proxy between each process and each server it speaks to, so that one process's can be cut."""

import asyncio
from collections.abc import Iterable, Mapping

from pilothouse.testing.chaos.evidence import ON_LINKS
from pilothouse.testing.chaos.faults import PlannedFault, bring_back
from pilothouse.testing.cluster import Child
from pilothouse.testing.proxy import BlackHole, Delay, HalfClose, Mode, Pass, Reset, TcpProxy, Throttle

MODES: dict[str, Mode] = {
    "black-hole": BlackHole(),
    "delay": Delay(0.7),
    "throttle": Throttle(4_000),
    "reset": Reset(),
    "half-close": HalfClose(),
}
_SILENT_SECONDS = 90
"""How long a dead host's connections stay as they were; then it is back and knows nothing of them."""


class Network:
    """Proxies by process and link (`postgres`, `valkey`, `model`).

    Args:
        servers: the port of each link's server on 127.0.0.1.
    """

    def __init__(self, servers: Mapping[str, int]) -> None:
        self._servers = servers
        self._proxies: dict[tuple[str, str], TcpProxy] = {}
        self._thaws: set[asyncio.Task[None]] = set()

    async def connect(self, processes: Iterable[str]) -> None:
        """Make the links of these processes."""
        for process in processes:
            for link, port in self._servers.items():
                proxy = TcpProxy("127.0.0.1", port)
                await proxy.start()
                self._proxies[process, link] = proxy

    async def stop(self) -> None:
        """Close everything."""
        for thaw in self._thaws:
            thaw.cancel()
        await asyncio.gather(*self._thaws, return_exceptions=True)
        for proxy in self._proxies.values():
            await proxy.stop()

    def port(self, process: str, link: str) -> int:
        """Where a process finds a server."""
        return self._proxies[process, link].port

    def switch(self, process: str, link: str, mode: Mode) -> None:
        """Treat a link like this from now on."""
        self._proxies[process, link].switch(mode)

    def freeze(self, process: str) -> None:
        """Its host is gone: whatever it had open stays as it is for a long time; a new process gets fresh links."""
        proxies = [proxy for (name, _), proxy in self._proxies.items() if name == process]
        for proxy in proxies:
            proxy.freeze()
        thaw = asyncio.create_task(_thaw(proxies))
        self._thaws.add(thaw)
        thaw.add_done_callback(self._thaws.discard)


async def _thaw(proxies: list[TcpProxy]) -> None:
    await asyncio.sleep(_SILENT_SECONDS)
    for proxy in proxies:
        await proxy.drop_frozen()


class NetworkFaults:
    """Links that fail for a while, and hosts that lose their power."""

    kinds = ON_LINKS | {"host-death"}

    def __init__(self, network: Network, targets: Mapping[str, Child]) -> None:
        self._network = network
        self._targets = targets

    async def strike(self, planned: PlannedFault) -> None:
        """Do it, and undo it after `planned.down` seconds.

        Raises:
            StartupError: a process did not come back.
        """
        if planned.kind == "host-death":
            self._network.freeze(planned.target)
            child = self._targets[planned.target]
            await child.kill()
            await asyncio.sleep(planned.down)
            await bring_back(child)
            return
        self._network.switch(planned.target, planned.detail, MODES[planned.kind])
        try:
            await asyncio.sleep(planned.down)
        finally:
            self._network.switch(planned.target, planned.detail, Pass())
