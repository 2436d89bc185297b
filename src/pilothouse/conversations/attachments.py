"""Files that people attach to their messages: checked when they come, stored once, referred to in the transcript.

A stored message names its files, it does not hold them: each is a `DocumentUrl` of the scheme `attachment:`, which no
provider is ever sent. Messages that releases before this one stored hold their files themselves, as `BinaryContent`.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import DocumentUrl, ModelMessage, UserPromptPart

from pilothouse.db.values import column_count
from pilothouse.errors import InvalidRequest
from pilothouse.kit.charsets import NotText, decode_text
from pilothouse.kit.ids import new_id
from pilothouse.kit.media import count_pdf_pages, image_size, sniff_media_type
from pilothouse.kit.printable import cleaned
from pilothouse.llm.tokens import estimate_image_tokens, estimate_pdf_tokens, estimate_tokens

__all__ = ["Attachment", "Reference", "decode_base64", "prepare", "read_reference", "references_in", "refers_to_files"]

MEDIA_TYPE_PATTERN = (
    r"^(image/(png|jpeg|gif|webp)|application/pdf"
    r"|text/(plain|markdown|csv|html)( ?; ?charset=([A-Za-z0-9._:-]{1,40}|\"[A-Za-z0-9._:-]{1,40}\"))?)$"
)
MOST_NAME_CHARS = 200
_SCHEME = "attachment:"
# How pydantic-core writes a reference. Inside a string of JSON the quotes would be escaped.
_MARK = f'"url":"{_SCHEME}att_'
_PIECE = 4 * 65_536


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that was checked, as it will be stored.

    Attributes:
        media_type: what it is, without parameters.
        charset: the codec its text is read with; None if it is no text.
        sha256: of the bytes, in hex.
        tokens: about how many a model counts for it.
    """

    id: str
    media_type: str
    name: str | None
    charset: str | None
    data: bytes
    sha256: str
    tokens: int

    def reference(self) -> DocumentUrl:
        """What stands for it in a stored message."""
        about = {"name": self.name, "bytes": len(self.data), "charset": self.charset}
        return DocumentUrl(f"{_SCHEME}{self.id}", media_type=self.media_type, identifier=self.id, vendor_metadata=about)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a stored message says of one of its files. `size` is in bytes."""

    id: str
    media_type: str
    name: str | None
    size: int
    charset: str | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a conversation, with its bytes."""

    id: str
    media_type: str
    name: str | None
    data: bytes


def prepare(media_type: str, encoded: str, name: str | None) -> Attachment:
    """Decode and check a file. Takes tens of milliseconds for megabytes: not for the event loop.

    Args:
        media_type: as declared, of those that `MEDIA_TYPE_PATTERN` allows.
        encoded: the bytes in base64.
        name: as the caller gave it.

    Raises:
        InvalidRequest: it is no base64 (`attachment_not_base64`), empty (`attachment_empty`), of another kind than it
            is declared as (`attachment_type_mismatch`), or text that can't be read (`attachment_not_text`).
    """
    shown = _clean_name(name)
    data = decode_base64(encoded, shown)
    declared, _, parameter = (part.strip() for part in media_type.partition(";"))
    if not data:
        raise InvalidRequest(f"{_subject(shown)} is empty. Leave it out.", code="attachment_empty")
    charset = None
    if declared.startswith("text/"):
        charset, tokens = _check_text(data, parameter.partition("=")[2].strip('" ') or None, shown)
    else:
        declared = _check_kind(data, declared, shown)
        tokens = file_tokens(declared, data)
    return Attachment(
        id=new_id("att"),
        media_type=declared,
        name=shown,
        charset=charset,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        tokens=column_count(tokens),
    )


def decode_base64(encoded: str, name: str | None = None) -> bytes:
    """Strict, but for white space. A piece at a time, so that other threads get their turn between them.

    Raises:
        InvalidRequest: it is no base64.
    """
    try:
        text = encoded.encode("ascii").translate(None, b" \t\r\n")
        if b"=" in text[:-2]:
            raise ValueError
        pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
        return b"".join([binascii.a2b_base64(piece, strict_mode=True) for piece in pieces])
    except ValueError:
        raise InvalidRequest(
            f"{_subject(name)} is not valid base64: send its bytes in the standard alphabet, with padding.",
            code="attachment_not_base64",
        ) from None


def encode_base64(data: bytes) -> Iterator[str]:
    """The base64 of a file, in pieces."""
    size = 3 * 65_536
    for at in range(0, len(data), size):
        yield base64.b64encode(data[at : at + size]).decode()


def file_tokens(media_type: str, data: bytes) -> int:
    """About how many tokens an image or a PDF has."""
    if media_type == "application/pdf":
        return estimate_pdf_tokens(count_pdf_pages(data), len(data))
    return estimate_image_tokens(image_size(data))


def refers_to_files(payload: str) -> bool:
    """Whether a stored message names files. Cheap: it is asked of every message of a history."""
    return _MARK in payload


def references_in(message: ModelMessage) -> list[Reference]:
    """The files that a stored user's message names."""
    found: list[Reference] = []
    for part in message.parts:
        if isinstance(part, UserPromptPart) and not isinstance(part.content, str):
            found.extend(reference for item in part.content if (reference := read_reference(item)) is not None)
    return found


def read_reference(item: object) -> Reference | None:
    """The reference that an item of a user's message is; None for any other item."""
    if not isinstance(item, DocumentUrl) or not item.url.startswith(_SCHEME):
        return None
    about: dict[str, Any] = item.vendor_metadata or {}
    return Reference(
        id=item.url.removeprefix(_SCHEME),
        media_type=item.media_type,
        name=about.get("name"),
        size=about.get("bytes") or 0,
        charset=about.get("charset"),
    )


def _check_text(data: bytes, charset: str | None, name: str | None) -> tuple[str, int]:
    try:
        text, codec = decode_text(data, charset)
    except NotText as error:
        raise InvalidRequest(f"{_subject(name)} can't be read as text. {error}", code="attachment_not_text") from None
    return codec, estimate_tokens(text)


def _check_kind(data: bytes, declared: str, name: str | None) -> str:
    """What the file is. An image of another format than declared is taken as what it is: names of files often lie."""
    found = sniff_media_type(data)
    if found is not None and (found == declared or (found.startswith("image/") and declared.startswith("image/"))):
        return found
    said = f"are {found}" if found is not None else "are not"
    raise InvalidRequest(
        f"{_subject(name)} is declared as {declared}, but its bytes {said}. Declare what it is.",
        code="attachment_type_mismatch",
    )


def _clean_name(name: str | None) -> str | None:
    """The last part of a path, without what can't be shown; None if nothing is left."""
    if name is None:
        return None
    last = re.split(r"[/\\]", name.rstrip("/\\ "))[-1]
    return " ".join(cleaned(last, " ").split())[:MOST_NAME_CHARS] or None


def _subject(name: str | None) -> str:
    return "An attachment" if name is None else f"The attachment {name!r}"
