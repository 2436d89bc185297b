"""What the bytes of a file are: its kind by its first bytes, an image's size, a document's pages."""

import re
import struct

__all__ = ["count_pdf_pages", "image_size", "sniff_media_type"]

_PNG = b"\x89PNG\r\n\x1a\n"
_GIFS = (b"GIF87a", b"GIF89a")
_PDF_HEAD_BYTES = 1_024  # readers look for the head there: ISO 32000-1, annex H.3, note 13
_PAGE = re.compile(rb"/Type\s{0,8}/Page(?![A-Za-z])")
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MOST_JPEG_SEGMENTS = 1_000


def sniff_media_type(data: bytes) -> str | None:
    """The media type that the first bytes say: PNG, JPEG, GIF, WebP or PDF; None for anything else."""
    if data.startswith(_PNG):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(_GIFS):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if b"%PDF-" in data[:_PDF_HEAD_BYTES]:
        return "application/pdf"
    return None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an image in pixels, as its head says; None if it can't be told."""
    try:
        size = _size(data)
    except (struct.error, IndexError):
        return None
    return size if size is not None and min(size) > 0 else None


def count_pdf_pages(data: bytes) -> int:
    """The page objects a PDF shows; 0 if they are in compressed streams."""
    return sum(1 for _ in _PAGE.finditer(data))


def _size(data: bytes) -> tuple[int, int] | None:
    kind = sniff_media_type(data)
    if kind == "image/png":
        return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None
    if kind == "image/gif":
        return struct.unpack_from("<HH", data, 6)
    if kind == "image/jpeg":
        return _jpeg_size(data)
    return _webp_size(data) if kind == "image/webp" else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    place = 2
    for _ in range(_MOST_JPEG_SEGMENTS):
        while data[place] == 0xFF and data[place + 1] == 0xFF:  # fill bytes
            place += 1
        if data[place] != 0xFF:
            return None
        if data[place + 1] in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
