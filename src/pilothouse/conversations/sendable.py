"""Files of a transcript as every model takes them: text as text, images and PDFs that are what they say.

Providers' wires refuse what they don't know by raising, in the middle of a run and again with each later message
(P7): OpenAI's any text that is not UTF-8, Anthropic's any text but text/plain. So text is sent as text, whatever the
provider, and what can't be sent is named in words. The same stored bytes always give the same content (P2).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from pilothouse.conversations.attachments import Reference, read_reference
from pilothouse.kit.charsets import NotText, decode_text
from pilothouse.kit.jsons import dumps
from pilothouse.kit.media import sniff_media_type
from pilothouse.llm.tokens import estimate_image_tokens, estimate_pdf_tokens

__all__ = [
    "checked_file",
    "holds_files",
    "inline_bytes",
    "inline_tokens",
    "left_out",
    "sendable_file",
    "text_of_file",
    "with_sendable_files",
]

# How pydantic-core writes a file in a message. Inside a string of JSON the quotes would be escaped.
_INLINE = '"kind":"binary"'
_TEXT_TYPES = frozenset(
    {"application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml"}
)
_TEXT_SUFFIXES = ("+json", "+xml", "+yaml")

Fill = Callable[[Reference], UserContent]
Take = Callable[[BinaryContent], str | BinaryContent]


def holds_files(payload: str) -> bool:
    """Whether a stored message holds files itself."""
    return _INLINE in payload


def inline_bytes(payload: str) -> int:
    """About how many bytes of files a stored message holds itself."""
    return len(payload) * 3 // 4 if _INLINE in payload else 0


def inline_tokens(payload: str) -> int:
    """About how many tokens the files have that a stored message holds itself, without decoding them.

    Releases that stored files so counted 1,000 for each, whatever it was.
    """
    size = inline_bytes(payload)
    if not size:
        return 0
    if '"media_type":"text/' in payload:
        return size // 4
    images = payload.count('"media_type":"image/')
    pages = estimate_pdf_tokens(0, size) if '"media_type":"application/pdf"' in payload else 0
    return images * estimate_image_tokens(None) + pages


def with_sendable_files(message: ModelMessage, *, fill: Fill | None = None, take: Take | None = None) -> ModelMessage:
    """A stored message whose files every model takes.

    Args:
        message: as it was stored.
        fill: gives what is sent for a file that the message names.
        take: gives what is sent for a file that the message holds itself; `sendable_file` by default.
    """
    if not isinstance(message, ModelRequest):
        return message
    parts: list[Any] = []
    for part in message.parts:
        if isinstance(part, UserPromptPart) and not isinstance(part.content, str):
            parts.append(replace(part, content=[_item(item, fill, take or sendable_file) for item in part.content]))
        elif isinstance(part, ToolReturnPart):
            parts.append(replace(part, content=_result(part.content, take or sendable_file)))
        else:
            parts.append(part)
    return replace(message, parts=parts)


def sendable_file(item: BinaryContent, *, is_past: bool = False) -> str | BinaryContent:
    """A file as every model takes it: itself, its text, or words that say why it is left out.

    Args:
        item: the file.
        is_past: it is of an earlier turn: a file that only some models take is left out.
    """
    media_type = item.media_type.partition(";")[0].strip().lower()
    if _is_text(media_type):
        name = hashlib.sha256(item.data).hexdigest()[:16]
        return text_of_file(item.data, media_type, name=None, file_id=name, charset=None)
    if media_type.startswith("image/") or media_type == "application/pdf":
        return checked_file(item.data, media_type, name=None, original=item)
    return left_out(media_type, len(item.data), None, "models don't take files of this kind") if is_past else item


def text_of_file(data: bytes, media_type: str, *, name: str | None, file_id: str, charset: str | None) -> str:
    """The text of a file between lines that say where it begins and ends."""
    try:
        text, _ = decode_text(data, charset)
    except NotText:
        return left_out(media_type, len(data), name, "it can't be read as text")
    named = f" name={dumps(name)}" if name else ""
    return f'-----BEGIN FILE id="{file_id}"{named} type="{media_type}"-----\n{text}\n-----END FILE id="{file_id}"-----'


def checked_file(
    data: bytes, media_type: str, *, name: str | None, original: BinaryContent | None = None
) -> str | BinaryContent:
    """An image or a PDF that is one, or words that say that it isn't."""
    found = sniff_media_type(data)
    if found == media_type:
        return original or BinaryContent(data=data, media_type=media_type)
    if found is not None and found.startswith("image/") and media_type.startswith("image/"):
        return BinaryContent(data=data, media_type=found)
    return left_out(media_type, len(data), name, "its bytes are of another kind")


def left_out(media_type: str, size: int, name: str | None, why: str) -> str:
    """What a model is told of a file it is not sent."""
    named = f" {dumps(name)}" if name else ""
    return f"[The attached file{named} ({media_type}, {size} bytes) is left out: {why}.]"


def _item(item: UserContent, fill: Fill | None, take: Take) -> UserContent:
    if isinstance(item, BinaryContent):
        return take(item)
    if fill is not None and (reference := read_reference(item)) is not None:
        return fill(reference)
    return item


def _result(content: Any, take: Take) -> Any:
    """A tool's result. Only files that stand alone or in a list are sent as files."""
    if isinstance(content, list):
        items = cast("Sequence[Any]", content)
        return [take(item) if isinstance(item, BinaryContent) else item for item in items]
    return take(content) if isinstance(content, BinaryContent) else content


def _is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type in _TEXT_TYPES or media_type.endswith(_TEXT_SUFFIXES)
