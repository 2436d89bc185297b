"""Who is let in, who gives way, and how many of one address."""

import asyncio

import pytest
from pydantic import ValidationError
from tests.support.logs import logged_by

from pilothouse.server import connections as module
from pilothouse.server.connections import Connections
from pilothouse.server.limits import Limits, default_connections
from pilothouse.settings import ServerSettings


class One:
    """A connection that is only counted."""

    def __init__(self) -> None:
        self.aborted = False

    def check(self, now: float) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def made(**settings) -> Connections:
    return Connections(Limits.of(ServerSettings(**settings)))


def admitted(connections: Connections, *hosts: str | None) -> list[bool]:
    return [connections.admit(One(), host) is None for host in hosts]


async def test_one_address_may_have_so_many_connections_and_others_are_not_touched():
    connections = made(max_connections=100, max_connections_per_address=2)
    assert admitted(connections, *["192.0.2.7"] * 3, "192.0.2.8") == [True, True, False, True]


async def test_a_connection_that_ends_makes_room_for_its_address():
    connections = made(max_connections_per_address=1)
    first = One()
    assert connections.admit(first, "192.0.2.7") is None
    assert admitted(connections, "192.0.2.7") == [False]
    websocket = One()
    connections.replace(first, websocket)
    connections.leave(first)
    assert admitted(connections, "192.0.2.7") == [False]
    connections.leave(websocket)
    connections.leave(websocket)
    assert admitted(connections, "192.0.2.7") == [True]
    assert len(connections) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::7", "2001:db8:1:2:ffff::8", True),
        ("2001:db8:1:2::7", "2001:db8:1:3::7", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
async def test_an_ipv6_address_counts_with_its_network(one: str, other: str, same: bool):
    connections = made(max_connections_per_address=1)
    assert admitted(connections, one, other) == [True, not same]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "2001:db8::5", None])
async def test_this_machine_and_trusted_proxies_have_no_limit_of_their_own(host: str | None):
    connections = made(max_connections_per_address=1, trusted_proxies=("10.0.0.0/8", "2001:db8::/32"))
    assert admitted(connections, *[host] * 5) == [True] * 5


async def test_zero_switches_the_limit_per_address_off_and_half_of_all_is_the_default():
    assert admitted(made(max_connections_per_address=0), *["192.0.2.7"] * 50) == [True] * 50
    assert admitted(made(max_connections=4), *["192.0.2.7"] * 3) == [True, True, False]


async def test_the_oldest_connection_without_a_request_gives_way():
    connections = made(max_connections=3)
    working, older, newer = One(), One(), One()
    for one in (working, older, newer):
        connections.admit(one, None)
    connections.requested(working)
    assert admitted(connections, None, None) == [True, True]
    assert (working.aborted, older.aborted, newer.aborted) == (False, True, True)
    assert len(connections) == 3


async def test_without_one_that_could_give_way_a_new_one_is_refused():
    connections = made(max_connections=2)
    held = [One(), One()]
    for one in held:
        connections.admit(one, None)
        connections.requested(one)
    assert admitted(connections, None) == [False]
    assert not any(one.aborted for one in held)


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(64, 8), (256, 192), (1024, 768), (65_536, 20_000), (None, 20_000)],
)
def test_some_descriptors_are_kept_for_other_things(descriptors: int | None, connections: int):
    assert default_connections(descriptors) == connections


def test_a_proxy_that_is_no_address_is_refused_at_start():
    with pytest.raises(ValidationError, match=r"proxy\.internal"):
        ServerSettings(trusted_proxies=("proxy.internal",))


class Broken(One):
    """A connection that fails when it is looked at, and when it is closed."""

    def check(self, now: float) -> None:
        raise RuntimeError("on purpose")

    def abort(self) -> None:
        super().abort()
        raise RuntimeError("on purpose")


class Looked(One):
    def __init__(self) -> None:
        super().__init__()
        self.rounds, self.twice = 0, asyncio.Event()

    def check(self, now: float) -> None:
        self.rounds += 1
        if self.rounds == 2:
            self.twice.set()


async def test_a_connection_that_fails_when_it_is_looked_at_is_cut_and_those_behind_it_are_looked_at():
    connections = made(header_seconds=0.1)
    broken, behind = Broken(), Looked()
    with logged_by(module) as lines:
        for one in (broken, behind):
            connections.admit(one, None)
        async with asyncio.timeout(30):
            await behind.twice.wait()
    assert broken.aborted
    assert len(connections) == 1
    assert [line["event"] for line in lines] == ["connection_check_failed"]
    connections.leave(behind)
