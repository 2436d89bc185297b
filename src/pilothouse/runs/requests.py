"""From a chat request on any face to a `NewRun`."""

import asyncio
from typing import Literal

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.conversations import attachments
from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.attachments import Attachment
from pilothouse.db import Database
from pilothouse.errors import InvalidRequest, TooLarge
from pilothouse.idempotency.repository import KeyUse
from pilothouse.idempotency.service import key_use
from pilothouse.identity.principal import Principal
from pilothouse.runs.admit import NewRun
from pilothouse.runs.schemas import AttachmentIn, ChatRequest

_SMALL_CHARS = 16_384


class ChatRequests:
    """Turns chat requests into runs to admit: finds the agent, checks what the schema can't.

    Args:
        attachment_bytes: largest attachment.
    """

    def __init__(self, agents: AgentRegistry, database: Database, *, attachment_bytes: int) -> None:
        self._agents = agents
        self._database = database
        self._attachment_bytes = attachment_bytes

    async def new_run(
        self,
        principal: Principal,
        request: ChatRequest,
        *,
        stream: bool,
        idempotency_key: str | None = None,
    ) -> NewRun:
        """The run a request asks for.

        Raises:
            InvalidRequest: several agents and none named, an empty key, or an attachment that can't be taken.
            NotFound: no such agent.
            TooLarge: an attachment is over the limit.
        """
        mode: Literal["stream", "whole"] = "stream" if stream else "whole"
        return NewRun(
            principal=principal,
            agent=await self._agent(principal, request),
            message=request.message,
            conversation_id=request.conversation_id,
            context=request.context,
            attachments=[await self._attachment(item) for item in request.attachments],
            on_busy=request.on_busy,
            stream=stream,
            on_disconnect=request.on_disconnect,
            key_use=await _key_use(principal, request, idempotency_key, mode),
        )

    async def _attachment(self, item: AttachmentIn) -> Attachment:
        if len(item.data) <= _SMALL_CHARS:
            attachment = attachments.prepare(item.media_type, item.data, item.name)
        else:
            attachment = await asyncio.to_thread(attachments.prepare, item.media_type, item.data, item.name)
        if len(attachment.data) > self._attachment_bytes:
            raise TooLarge(
                f"An attachment is {len(attachment.data)} bytes; at most {self._attachment_bytes} are taken.",
                code="attachment_too_large",
            )
        return attachment

    async def _agent(self, principal: Principal, request: ChatRequest) -> ServedAgent:
        if request.agent is not None:
            return self._agents.get(request.agent)
        if self._agents.default is not None and (request.conversation_id is None or len(self._agents) == 1):
            return self._agents.default
        if request.conversation_id is not None:
            row = await self._database.read(
                conversation_rows.get_conversation, principal.tenant, principal.subject, request.conversation_id
            )
            if row is not None:
                return self._agents.get(row.agent)
        names = ", ".join(agent.name for agent in self._agents) or "none"
        raise InvalidRequest(f"Say which agent: {names}.", code="agent_required")


async def _key_use(principal: Principal, request: ChatRequest, key: str | None, mode: str) -> KeyUse | None:
    """The use of an idempotency key. Files are part of what makes two requests the same: hashed off the event loop."""
    if key is None:
        return None

    def use() -> KeyUse | None:
        body = request.model_dump(mode="json")
        for item in body["attachments"]:
            item["data"] = "".join(item["data"].split())
        return key_use(principal.tenant, principal.subject, key, route="chat", body=[mode, body])

    return await asyncio.to_thread(use) if request.attachments else use()
