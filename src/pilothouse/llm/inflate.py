"""Compressed bodies, decoded in pieces of bounded size: a few kilobytes may hold gigabytes."""

import zlib

__all__ = ["ACCEPTED_ENCODINGS", "Inflater", "inflater_for"]

ACCEPTED_ENCODINGS = "gzip, deflate"
_PIECE_BYTES = 65_536
_ANY_HEADER = zlib.MAX_WBITS | 32
_WITHOUT_HEADER = -zlib.MAX_WBITS


class Inflater:
    """Decodes gzip or deflate. Raises `ValueError` for bytes that are neither."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_ANY_HEADER)
        self._rest = b""
        self._has_begun = False

    def feed(self, data: bytes) -> None:
        """More bytes as they arrived; only after `next_piece` has given nothing."""
        self._rest = self._decoder.unconsumed_tail + data

    def next_piece(self) -> bytes:
        """What can be decoded now, at most 64 KiB of it; nothing if more bytes are needed."""
        data, self._rest = self._rest or self._decoder.unconsumed_tail, b""
        if self._decoder.eof:
            return b""  # what stands behind the end is not looked at: zlib would collect it
        try:
            piece = self._decoder.decompress(data, _PIECE_BYTES)
        except zlib.error:
            if self._has_begun:
                raise ValueError("The compressed body is damaged.") from None
            piece = self._without_header(data)
        self._has_begun = self._has_begun or bool(piece)
        return piece

    def _without_header(self, data: bytes) -> bytes:
        """Some servers send `deflate` without the header it should have."""
        self._decoder = zlib.decompressobj(_WITHOUT_HEADER)
        self._has_begun = True
        try:
            return self._decoder.decompress(data, _PIECE_BYTES)
        except zlib.error:
            raise ValueError("The body is not compressed as its header says.") from None


def inflater_for(encoding: str) -> Inflater | None:
    """A decoder for a `Content-Encoding`; `None` if the body is not encoded.

    Raises:
        ValueError: an encoding we did not ask for.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name in {"gzip", "x-gzip", "deflate"}:
        return Inflater()
    raise ValueError("The body is encoded in a way that was not asked for.")
