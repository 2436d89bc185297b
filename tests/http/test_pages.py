import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.errors import InvalidRequest
from pilothouse.http.pages import Page, decode_cursor, encode_cursor


def packed(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=50))
def test_what_was_packed_comes_back(number, text):
    cursor = encode_cursor(number, text)
    assert decode_cursor(cursor, int, str) == (number, text)
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_none_can_be_part_of_a_cursor():
    assert decode_cursor(encode_cursor(None, 3), type(None), int) == (None, 3)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!!!",
        "é",
        "\ud800",
        "\x00",
        "A" * 100_000,
        encode_cursor(1),
        encode_cursor("a", 1),
        encode_cursor(1, "a", "b"),
        encode_cursor(2**63, "a"),
        encode_cursor(1, "a\x00"),
        packed("[1"),
        packed('{"a":1}'),
        packed('[true, "a"]'),
        packed('[1.0, "a"]'),
        packed('[NaN, "a"]'),
        packed(b'[1, "\xff"]'),
        packed('[1, "\\ud800"]'),
        packed("[" * 700),
        packed(json.dumps([10**400, "a"])),
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(cursor):
    with pytest.raises(InvalidRequest) as caught:
        decode_cursor(cursor, int, str)
    assert (caught.value.code, caught.value.status) == ("bad_cursor", 422)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63])
def test_a_number_that_its_column_can_not_hold_is_no_cursor(number):
    with pytest.raises(InvalidRequest):
        decode_cursor(encode_cursor(1, number), int, int, bits=32)
    assert decode_cursor(encode_cursor(1, 2**31 - 1), int, int, bits=32) == (1, 2**31 - 1)


@given(st.text(max_size=40))
def test_no_text_breaks_the_decoder(text):
    with suppress(InvalidRequest):
        assert isinstance(decode_cursor(text, int)[0], int)


def test_a_page_is_generic():
    page = Page[int](items=[1, 2], next_cursor=None)
    assert page.model_dump() == {"items": [1, 2], "next_cursor": None}
    assert Page[int].model_json_schema()["required"] == ["items", "next_cursor"]
