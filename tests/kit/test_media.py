import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.kit.media import count_pdf_pages, image_size, sniff_media_type

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 640, 480)
JPEG = b"\xff\xd8\xff\xe0\x00\x04ab" + b"\xff\xff\xc2\x00\x11\x08" + struct.pack(">HH", 480, 640)
GIF = b"GIF87a" + struct.pack("<HH", 640, 480)
VP8 = b"RIFF----WEBPVP8 " + bytes(10) + struct.pack("<HH", 640, 480)
VP8L = b"RIFF----WEBPVP8L----\x2f" + (639 | 479 << 14).to_bytes(4, "little")
VP8X = b"RIFF----WEBPVP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")


@pytest.mark.parametrize("data", [PNG, JPEG, GIF, VP8, VP8L, VP8X], ids=["png", "jpeg", "gif", "vp8", "vp8l", "vp8x"])
def test_an_images_size_is_read_from_its_head(data):
    assert image_size(data) == (640, 480)


@given(st.sampled_from([PNG, JPEG, GIF, VP8, VP8L, VP8X]), st.binary(max_size=40), st.integers(0, 40))
def test_a_head_that_is_broken_gives_a_size_or_none(data, noise, at):
    size = image_size(data[:at] + noise)
    assert size is None or min(size) > 0


def test_a_jpeg_of_endless_segments_is_given_up():
    assert image_size(b"\xff\xd8\xff" + b"\xe0\x00\x02\xff" * 100_000) is None


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"junk before it %PDF-1.7", "application/pdf"),
        (b"x" * 2_000 + b"%PDF-1.7", None),
        (b"<html>", None),
        (b"", None),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
    ],
)
def test_a_kind_is_told_by_the_first_bytes(data, media_type):
    assert sniff_media_type(data) == media_type


def test_pages_of_a_pdf_are_counted_and_its_tree_is_not():
    assert (
        count_pdf_pages(b"<</Type/Page>> <</Type /Page/Parent 2 0 R>> <</Type/Pages/Count 2>> <</Type/PageLabel>>") == 2
    )
    assert count_pdf_pages(b"/Type" + b" " * 1_000_000) == 0
