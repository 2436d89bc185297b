"""The terminal chat."""

import asyncio
import importlib.util
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from pilothouse.cli.actions.client import Dropped, EventStream, Refused, ServerClient, find_token
from pilothouse.cli.actions.screen import Screen, effects
from pilothouse.cli.actions.sse import Event
from pilothouse.cli.output import complain, in_terminal, plain, say
from pilothouse.errors import PilothouseError, Unavailable
from pilothouse.kit.ids import new_id
from pilothouse.kit.jsons import dumps
from pilothouse.kit.printable import one_line

_GIVE_UP_SECONDS = 60
_LONGEST_PAUSE = 3.0
_PROMPT = "> "
_CODES = {"run.completed": 0, "run.failed": 1, "run.cancelled": 130}


def talk(url: str, token: str | None, *, agent: str | None, conversation_id: str | None, message: str | None) -> int:
    """Chat until the person leaves, or say one message where there is one.

    Returns:
        The exit code: 0, 1 where the run failed, 130 where it was stopped.

    Raises:
        PilothouseError: the server can't be reached or refuses.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without these characters gets question marks, not a trace
    client = ServerClient(url, find_token(url, token))
    chat = Chat(client, agent=agent, conversation_id=conversation_id)
    with asyncio.Runner() as runner:
        try:
            if message is None and in_terminal():
                return _converse(runner, chat)
            text = sys.stdin.read() if message is None else message
            if not text.strip():
                raise Refused("There is nothing to say: give a message with --message, or on stdin.")
            return runner.run(chat.answer(text.strip()))
        finally:
            runner.run(client.close())


def _converse(runner: asyncio.Runner, chat: "Chat") -> int:
    say(runner.run(chat.greeting()))
    if importlib.util.find_spec("readline") is not None:
        importlib.import_module("readline")  # arrow keys and history at the prompt
    while True:
        try:
            text = input(_PROMPT).strip()
        except (EOFError, KeyboardInterrupt):
            say("")
            return 0
        if not text:
            continue
        try:
            runner.run(chat.answer(text, ask=_ask))
        except KeyboardInterrupt:
            return 130
        except PilothouseError as error:
            complain(error)
            if isinstance(error, Refused) and error.status == 401:
                return 1


def _ask(question: str) -> bool:
    try:
        return input(f"{plain(question)} [y/N] ").strip().lower() in {"y", "yes"}
    except (EOFError, KeyboardInterrupt):
        return False


class Chat:
    """One conversation with one server."""

    def __init__(self, client: ServerClient, *, agent: str | None, conversation_id: str | None) -> None:
        self._client = client
        self._agent = agent
        self._conversation_id = conversation_id

    async def greeting(self) -> str:
        """One line for the beginning; says early where the token is no good."""
        try:
            page = await self._client.get("/v1/agents")
        except Refused as error:
            if error.status != 403:
                raise
            return f"Connected to {self._client.url}. Ctrl-D ends."
        agents = [one_line(str(item["name"])) for item in page["items"]]
        default = [one_line(str(item["name"])) for item in page["items"] if item["default"]]
        who = self._agent or (default[0] if default else None)
        if who is None and self._conversation_id is None:
            raise Refused(f"The server has several agents. Choose one with --agent: {', '.join(agents) or 'none'}.")
        return f"Chatting with {who or 'the agent of this conversation'} at {self._client.url}. Ctrl-D ends."

    async def answer(self, message: str, *, ask: Callable[[str], bool] | None = None) -> int:
        """Say something and show the answer; Ctrl-C stops it.

        Args:
            ask: puts a yes-or-no question to the person; None where nobody is there.
        """
        body: dict[str, Any] = {"message": message}
        if self._agent is not None:
            body["agent"] = self._agent
        if self._conversation_id is not None:
            body["conversation_id"] = self._conversation_id
        answer = _Answer(self._client, body, ask)
        try:
            return await answer.show()
        finally:
            self._conversation_id = answer.conversation_id or self._conversation_id


class _Answer:
    """One message on its way, and the run that answers it."""

    def __init__(self, client: ServerClient, body: dict[str, Any], ask: Callable[[str], bool] | None) -> None:
        self._client = client
        self._body = body
        self._ask = ask
        self._key = new_id("chat")
        self._screen = Screen()
        self._run_id: str | None = None
        self._last: str | None = None
        self._stop = asyncio.Event()
        self._accepted = asyncio.Event()
        self.conversation_id: str | None = None

    async def show(self) -> int:
        """Follow the run to its end, over as many connections as it takes."""
        loop = asyncio.get_running_loop()
        following = asyncio.current_task()

        def interrupt() -> None:
            if self._stop.is_set() and following is not None:
                following.cancel()  # the second time: leave, whatever becomes of the run
            self._stop.set()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        stopping = asyncio.create_task(self._stop_when_asked())
        try:
            return _CODES[(await self._follow()).type]
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _follow(self) -> Event:
        pause, lost_at = 0.1, None
        while True:
            before = self._last
            try:
                last = await self._once()
                if last is not None:
                    return last
            except (Dropped, Unavailable, Refused) as error:
                if not error.retryable or (self._run_id is None and isinstance(error, Unavailable)):
                    raise
            if self._last != before:
                pause, lost_at = 0.1, None
            if lost_at is None:
                lost_at = time.monotonic()
                self._screen.remark("(Connection lost; taking it up again …)")
            elif time.monotonic() - lost_at > _GIVE_UP_SECONDS:
                raise Unavailable(
                    "The server does not come back. The run is kept and goes on there"
                    + (f"; see it with: pilothouse runs show {self._run_id}" if self._run_id else ".")
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _once(self) -> Event | None:
        """Follow over one connection. Returns the run's last event; None where the connection ended before it."""
        waiting: Event | None = None
        opened = (
            self._client.say(self._body, self._key)
            if self._run_id is None
            else self._client.follow(self._run_id, self._last)
        )
        async with opened as stream:
            self._learn(stream)
            async for event in stream:
                self._last = event.id or self._last  # what is no part of the log has none
                self._screen.show(event)
                if event.final:
                    return event
                if event.type == "approval.requested":
                    waiting = event
                    break
        if waiting is not None:
            await self._decide(waiting)
            return await self._once()
        return None

    def _learn(self, stream: EventStream) -> None:
        self._run_id = self._run_id or stream.run_id
        self._accepted.set()
        self.conversation_id = self.conversation_id or stream.conversation_id

    async def _decide(self, event: Event) -> None:
        name, arguments = one_line(str(event.data["name"])), plain(dumps(event.data.get("arguments")))
        if self._ask is None:
            raise Refused(
                f"The run waits for a person to allow {name} {arguments}. "
                f"Answer with POST /v1/runs/{self._run_id}/input."
            )
        if event.data.get("four_eyes"):
            raise Refused(
                f"Another person has to allow {name} {arguments}: somebody of your tenant who holds approvals:decide. "
                f"They answer with POST /v1/runs/{self._run_id}/input."
            )
        allowed = self._ask(f"Allow {name} {arguments}?")
        body = {"call_id": event.data["call_id"], "approve": allowed}
        if "arguments_hash" in event.data:  # servers of earlier releases know neither
            body |= {"step": event.data["step"], "arguments_hash": event.data["arguments_hash"]}
        await self._client.post(f"/v1/runs/{self._run_id}/input", body)

    async def _stop_when_asked(self) -> None:
        await self._stop.wait()
        self._screen.remark("Stopping …")
        await self._accepted.wait()
        try:
            done = await self._client.post(f"/v1/runs/{self._run_id}/cancel")
        except PilothouseError as error:
            self._screen.remark(error.message)
            return
        if done.get("already_finished"):
            self._screen.remark(f"It had ended already. {effects([])}" if not done["took_effect"] else "It had ended.")
