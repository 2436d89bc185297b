"""The HTTP API as callers with patience use it: what fails for a moment is tried again, at another node."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, cast

import aiohttp

from pilothouse.kit.jsons import loads
from pilothouse.testing.chaos.evidence import Document, Place, Seen

_AWAY = (aiohttp.ClientError, TimeoutError, OSError)
_SILENCE_SECONDS = 8
_WHOLE_SECONDS = 30


class GaveUp(Exception):
    """No node answered for as long as the caller was willing to try."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON document; `code` is that of a problem document."""

    status: int
    document: Document

    @property
    def code(self) -> str:
        return str(self.document.get("code", ""))

    @property
    def again(self) -> bool:
        """Whether the same request is to be sent again."""
        return self.status == 503 or self.code == "conversation_contended"


class Api:
    """The nodes of a server, and a caller's token.

    Args:
        patience_seconds: how long one request is tried, over all nodes.

    Attributes:
        odd: requests that `ask` had to repeat since the answer was an internal error.
    """

    def __init__(self, urls: Sequence[str], token: str, rng: random.Random, *, patience_seconds: float = 120) -> None:
        self.odd: list[str] = []
        self._urls = urls
        self._rng = rng
        self._patience = patience_seconds
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=_WHOLE_SECONDS, sock_connect=3),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def node(self, *, other_than: str = "") -> str:
        """Some node; another one where there is one."""
        others = [url for url in self._urls if url != other_than]
        return self._rng.choice(others or list(self._urls))

    async def ask(self, method: str, path: str, body: Document | None = None, *, key: str | None = None) -> Answer:
        """An answer from whichever node gives one.

        Raises:
            GaveUp: none did.
        """
        give_up, node = monotonic() + self._patience, ""
        while monotonic() < give_up:
            node = self.node(other_than=node)
            try:
                answer = await self.once(node, method, path, body, key=key)
            except _AWAY:
                await self.pause()
                continue
            if answer.code == "internal_error":
                self.odd.append(f"{method} {path}: {answer.status} {answer.code}")
            elif not answer.again:
                return answer
            await self.pause()
        raise GaveUp(f"{method} {path}")

    async def once(
        self, node: str, method: str, path: str, body: Document | None = None, *, key: str | None = None
    ) -> Answer:
        """An answer from this node.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: it gave none.
        """
        headers = {"Idempotency-Key": key} if key else {}
        async with self._session.request(method, node + path, json=body, headers=headers) as response:
            text = await response.text()
        return Answer(response.status, _document(text))

    async def status_of(self, node: str, body: Document, *, key: str, most_read: int) -> tuple[int, str]:
        """What a node says to a message: the status, and the code of a problem. Of an answer that is larger than
        `most_read` bytes the rest is read and thrown away.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: it gave none.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3)
        headers = {"Idempotency-Key": key}
        kept = bytearray()
        async with self._session.post(f"{node}/v1/chat", json=body, headers=headers, timeout=timeout) as response:
            async for piece in response.content.iter_any():
                kept += piece[: most_read - len(kept)]
        return response.status, Answer(response.status, _document(kept.decode(errors="replace"))).code

    async def pause(self) -> None:
        """As long as a sensible client waits before it tries again."""
        await asyncio.sleep(self._rng.uniform(0.1, 0.4))

    async def all_items(self, path: str) -> list[Document]:
        """All items of a paged list.

        Raises:
            GaveUp: as `ask`.
        """
        items: list[Document] = []
        cursor = ""
        while True:
            answer = await self.ask("GET", f"{path}{'&' if '?' in path else '?'}limit=100{cursor}")
            if answer.status != 200:
                raise GaveUp(f"GET {path}: {answer.status} {answer.code}")
            items += answer.document["items"]
            following = answer.document.get("next_cursor")
            if following is None:
                return items
            cursor = f"&cursor={following}"

    async def log_of(self, run_id: str) -> list[Seen]:
        """All events of a run so far.

        Raises:
            GaveUp: as `ask`.
        """
        events: list[Seen] = []
        after = ""
        while True:
            answer = await self._json_events(run_id, after)
            events += [Seen(place_of(item["id"]), item["type"], item["data"], 0.0) for item in answer.document["items"]]
            last = answer.document["last_id"]
            if last is None or last == after:
                return events
            after = last

    def stream(
        self, node: str, path: str, body: Document | None = None, *, headers: Mapping[str, str] | None = None
    ) -> "Stream":
        """A stream of this node, to be entered with `async with`."""
        method = "POST" if body is not None else "GET"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=_SILENCE_SECONDS)
        return Stream(self._session.request(method, node + path, json=body, headers=headers, timeout=timeout))

    async def _json_events(self, run_id: str, after: str) -> Answer:
        give_up = monotonic() + self._patience
        while monotonic() < give_up:
            path = f"{self.node()}/v1/runs/{run_id}/events" + (f"?after={after}" if after else "")
            try:
                async with self._session.get(path, headers={"Accept": "application/json"}) as response:
                    if response.status == 200:
                        return Answer(200, _document(await response.text()))
            except _AWAY:
                pass
            await self.pause()
        raise GaveUp(f"events of {run_id}")


class Stream:
    """A connection to an event stream."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> "Stream":
        self._response = await self._request.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.response.close()  # a reader that leaves does not wait for the rest
        await self._request.__aexit__(*exception)

    @property
    def response(self) -> aiohttp.ClientResponse:
        """Status and headers."""
        if self._response is None:
            raise RuntimeError("not entered")
        return self._response

    async def answer(self) -> Answer:
        """The whole body, where it is no stream."""
        return Answer(self.response.status, _document(await self.response.text()))

    async def __aiter__(self) -> AsyncIterator[Seen]:
        fields: dict[str, str] = {}
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                data = cast("Document", loads(fields["data"]))
                yield Seen(place_of(fields["id"]), fields["event"], data, time())
                fields = {}


def place_of(event_id: str) -> Place:
    """An event id as a pair that can be compared."""
    attempt, _, number = event_id.partition("-")
    return int(attempt), int(number)


def _document(text: str) -> Document:
    try:
        found = loads(text)
    except ValueError:
        return {"code": "no_json", "detail": text[:200]}
    return cast("Document", found) if isinstance(found, dict) else {}
