"""`/v1/conversations`. Needs `app.state.conversations`, and `app.state.stop_conversation` to end its runs."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request, status
from starlette.responses import Response, StreamingResponse

from pilothouse.agents.registry import AgentRegistry
from pilothouse.conversations.attachments import StoredFile, encode_base64
from pilothouse.conversations.present import conversation_document, inline_files, message_documents
from pilothouse.conversations.schemas import (
    ConversationChange,
    ConversationExport,
    ConversationOut,
    MessageOut,
    NewConversation,
    PinIn,
)
from pilothouse.conversations.service import Conversations
from pilothouse.conversations.transcript import StoredMessage
from pilothouse.errors import InvalidRequest
from pilothouse.http.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, encode_cursor
from pilothouse.http.problems import problem_responses
from pilothouse.idempotency.http import IdempotencyKey, Once
from pilothouse.idempotency.service import key_use
from pilothouse.identity.http import Scoped
from pilothouse.identity.principal import Principal
from pilothouse.kit.jsons import dumps

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])

Reader = Annotated[Principal, Scoped("conversations:read")]
Writer = Annotated[Principal, Scoped("conversations:write")]
ConversationId = Annotated[str, Path(min_length=1, max_length=40)]
AttachmentId = Annotated[str, Path(min_length=1, max_length=40, description="An attachment's `id`.")]
MessageKey = Annotated[str, Path(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$", description="A message's `key`.")]


async def _service(request: Request) -> Conversations:
    return request.app.state.conversations


Service = Annotated[Conversations, Depends(_service)]


@router.get("", summary="Your conversations, last used first", responses=problem_responses(401, 403, 422, 503))
async def list_conversations(
    principal: Reader, service: Service, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[ConversationOut]:
    """Pages of conversations, without their messages."""
    before = decode_cursor(cursor, int, str) if cursor is not None else None
    rows = await service.page(principal, limit=limit + 1, before=before)
    shown = rows[:limit]
    more = encode_cursor(shown[-1].updated_at, shown[-1].id) if len(rows) > limit else None
    return Page(items=[ConversationOut.model_validate(conversation_document(row)) for row in shown], next_cursor=more)


@router.post(
    "",
    summary="Begin a conversation",
    status_code=status.HTTP_201_CREATED,
    responses=problem_responses(400, 401, 403, 404, 422, 503),
)
async def create_conversation(
    request: Request,
    body: NewConversation,
    principal: Writer,
    service: Service,
    once: Once,
    idempotency_key: IdempotencyKey = None,
) -> ConversationOut:
    """Not needed for chatting: a message without a conversation begins one."""
    agents: AgentRegistry = request.app.state.agents
    agent = agents.get(body.agent) if body.agent is not None else agents.default
    if agent is None:
        names = ", ".join(item.name for item in agents) or "none"
        raise InvalidRequest(f"Say which agent: {names}.", code="agent_required")
    name = agent.name

    async def create() -> dict[str, Any]:
        row = await service.create(principal, agent=name, title=body.title, metadata=body.metadata)
        return conversation_document(row)

    document = body.model_dump(mode="json")
    use = key_use(principal.tenant, principal.subject, idempotency_key, route="conversations", body=document)
    return ConversationOut.model_validate(await once.once(use, create))


@router.get("/{conversation_id}", summary="A conversation", responses=problem_responses(401, 403, 404, 422, 503))
async def get_conversation(conversation_id: ConversationId, principal: Reader, service: Service) -> ConversationOut:
    """Its title, agent and times."""
    return ConversationOut.model_validate(conversation_document(await service.get(principal, conversation_id)))


@router.patch(
    "/{conversation_id}", summary="Rename a conversation", responses=problem_responses(400, 401, 403, 404, 422, 503)
)
async def rename_conversation(
    conversation_id: ConversationId, body: ConversationChange, principal: Writer, service: Service
) -> ConversationOut:
    """Give it another title."""
    row = await service.rename(principal, conversation_id, body.title)
    return ConversationOut.model_validate(conversation_document(row))


@router.delete(
    "/{conversation_id}",
    summary="Delete a conversation",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problem_responses(401, 403, 404, 422, 503),
)
async def delete_conversation(
    request: Request, conversation_id: ConversationId, principal: Writer, service: Service
) -> None:
    """Stops what runs in it, then removes it with its runs, events and messages for good."""
    await service.get(principal, conversation_id)
    await request.app.state.stop_conversation(principal, conversation_id)
    await service.delete(principal, conversation_id)


@router.get(
    "/{conversation_id}/messages",
    summary="A conversation's messages, oldest first",
    responses=problem_responses(401, 403, 404, 422, 503),
)
async def list_messages(
    conversation_id: ConversationId,
    principal: Reader,
    service: Service,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[MessageOut]:
    """The transcript: what people, the agent and its tools said. A page of long messages holds fewer than `limit`."""
    after = decode_cursor(cursor, int, int, bits=32) if cursor is not None else None
    rows, more = await service.page_of_messages(principal, conversation_id, limit=limit, after=after)
    items = [MessageOut.model_validate(item) for row in rows for item in message_documents([row])]
    return Page(items=items, next_cursor=encode_cursor(rows[-1].turn, rows[-1].seq) if more else None)


@router.put(
    "/{conversation_id}/messages/{key}/pin",
    summary="Pin a message",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problem_responses(400, 401, 403, 404, 422, 503),
)
async def pin_message(
    conversation_id: ConversationId, key: MessageKey, body: PinIn, principal: Writer, service: Service
) -> None:
    """Pinned messages stay when the history is cut to the model's window."""
    turn, _, seq = key.partition(".")
    await service.pin(principal, conversation_id, turn=int(turn), seq=int(seq), pinned=body.pinned)


@router.get(
    "/{conversation_id}/export",
    summary="Export a conversation",
    response_model=ConversationExport,
    responses=problem_responses(401, 403, 404, 422, 503),
)
async def export_conversation(
    conversation_id: ConversationId,
    principal: Reader,
    service: Service,
    attachments: Annotated[bool, Query(description="With the bytes of attached files, base64.")] = False,
) -> Response:
    """The conversation with all its messages (10,000 at most), as a file."""
    row = await service.get(principal, conversation_id)
    read = partial(service.attachment, principal, conversation_id) if attachments else None
    return StreamingResponse(
        _exported(conversation_document(row), service.export(principal, conversation_id), read),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{row.id}.json"'},
    )


@router.get(
    "/{conversation_id}/attachments/{attachment_id}",
    summary="A file of a conversation",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        **problem_responses(401, 403, 404, 422, 503),
    },
)
async def get_attachment(
    conversation_id: ConversationId, attachment_id: AttachmentId, principal: Reader, service: Service
) -> Response:
    """The bytes that were sent, to be saved: browsers neither show nor run them."""
    row = await service.attachment(principal, conversation_id, attachment_id)
    return Response(
        row.data,
        headers={
            "Content-Type": row.media_type,  # not as an argument: Starlette would call every text UTF-8
            "Content-Disposition": _disposition(row.name or row.id),
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        },
    )


def _disposition(name: str) -> str:
    """RFC 6266: a plain name for old programs, the exact one for all others."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


ReadAttachment = Callable[[str], Awaitable[StoredFile]]


async def _exported(
    conversation: dict[str, Any], rows: AsyncIterator[StoredMessage], read: ReadAttachment | None
) -> AsyncIterator[bytes]:
    """The document of an export, a message at a time and a piece of a file at a time: it may be of any size."""
    yield f'{{"conversation":{dumps(conversation)},"messages":['.encode()
    separator = ""
    async for row in rows:
        [document] = message_documents([row])
        if read is not None and document["attachments"]:
            yield separator.encode()
            async for piece in _with_files(row, document, read):
                yield piece
        else:
            yield (separator + dumps(document)).encode()
        separator = ","
        # The socket takes much at once; others want their turn meanwhile.
        await asyncio.sleep(0)
    yield b"]}"


async def _with_files(row: StoredMessage, document: dict[str, Any], read: ReadAttachment) -> AsyncIterator[bytes]:
    """A message with the bytes of its files."""
    files: list[dict[str, Any]] = document.pop("attachments")
    yield f'{dumps(document)[:-1]},"attachments":['.encode()
    inline = iter(inline_files(row))
    separator = ""
    for about in files:
        data: bytes = next(inline) if about["id"] is None else (await read(about["id"])).data
        yield f'{separator}{dumps(about)[:-1]},"data":"'.encode()
        for piece in encode_base64(data):
            yield piece.encode()
            await asyncio.sleep(0)
        yield b'"}'
        separator = ","
    yield b"]}"
