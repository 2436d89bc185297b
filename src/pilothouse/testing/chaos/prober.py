"""Somebody who asks each node all the time whether it answers a new chat, and somebody whose model answers badly."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from time import time

import aiohttp

from pilothouse.testing.chaos.api import Api
from pilothouse.testing.chaos.evidence import Evidence, Probe, Trouble
from pilothouse.testing.chaos.faults import PlannedFault
from pilothouse.testing.chaos.scenarios import PROBE, last_words, message_text

_AWAY = (aiohttp.ClientError, TimeoutError, OSError)
_PAUSE_SECONDS = 0.4
_PATIENCE_SECONDS = 5
_TROUBLE_SECONDS = 60
_MOST_READ = 1_000_000


class Prober:
    """Sends quick chats to one node, one after the other, each in a conversation of its own.

    Args:
        node: its name.
        url: its address.
    """

    def __init__(self, node: str, url: str, api: Api, evidence: Evidence) -> None:
        self._node = node
        self._url = url
        self._api = api
        self._evidence = evidence
        self._count = 0
        self._probed = asyncio.Event()

    async def until(self, stop: asyncio.Event) -> None:
        """Probe until told to stop."""
        while not stop.is_set():
            self._evidence.probes.append(await self._probe())
            probed, self._probed = self._probed, asyncio.Event()
            probed.set()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def answered(self, since: float) -> None:
        """Until a probe was answered that began after an instant; `until` has to run meanwhile."""
        while first_answer(self._evidence.probes, self._node, since) is None:
            await self._probed.wait()

    async def _probe(self) -> Probe:
        self._count += 1
        key, began, run_id = f"probe{self._node}x{self._count}", time(), None
        body = {"message": message_text(key, PROBE)}
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                answer = await self._api.once(self._url, "POST", "/v1/chat", body, key=key)
            run_id = answer.document.get("run_id")
            good = answer.status == 200 and str(answer.document.get("text", "")).endswith(last_words(key))
            problem = None if good else f"{answer.status} {answer.code}".strip()
        except _AWAY as error:
            problem = type(error).__name__
        return Probe(key, self._node, began, time(), problem, run_id)


async def until_all_answer(probers: Sequence[Prober], *, since: float, seconds: float) -> None:
    """Until each node has answered a probe that began after an instant, at most for a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(prober.answered(since) for prober in probers))


def first_answer(probes: list[Probe], node: str, since: float) -> Probe | None:
    """The first probe of a node that was answered and began after an instant."""
    return next((probe for probe in probes if probe.node == node and probe.began >= since and not probe.problem), None)


class ModelFaults:
    """A message at a time whose answer is too big, endless, a trickle or garbage."""

    kinds = frozenset({"model"})

    def __init__(self, api: Api, rng: random.Random, evidence: Evidence) -> None:
        self._api = api
        self._rng = rng
        self._evidence = evidence

    async def strike(self, planned: PlannedFault) -> None:
        """Send it to some node, and wait for what becomes of it."""
        key = f"trouble{len(self._evidence.troubles)}x{self._rng.randrange(10**6)}"
        body = {"message": message_text(key, planned.detail)}
        try:
            async with asyncio.timeout(_TROUBLE_SECONDS):
                status, code = await self._api.status_of(self._api.node(), body, key=key, most_read=_MOST_READ)
        except _AWAY as error:
            status, code = 0, type(error).__name__
        self._evidence.troubles.append(Trouble(key, planned.detail, status, code))
