import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.kit import charsets
from pilothouse.kit.charsets import NotText, decode_text


@pytest.mark.parametrize("codec", sorted(charsets._CODECS))  # the table is what is tested
def test_every_charset_we_name_exists_and_is_found_by_the_name_it_is_stored_under(codec):
    assert decode_text("plain".encode(codec), codec) == ("plain", codec)


@given(st.text())
def test_utf_8_is_read_as_it_is_and_needs_no_declaration(text):
    if "\x00" in text or text.startswith("\ufeff"):
        return
    assert decode_text(text.encode())[0] == text


@given(st.binary())
def test_whatever_the_bytes_are_they_are_text_that_can_be_written_or_refused_with_a_sentence(data):
    try:
        text, codec = decode_text(data)
    except NotText as error:
        assert str(error).endswith((".", "windows-1251."))  # noqa: PT017
    else:
        text.encode()
        assert "\x00" not in text
        assert decode_text(data, codec) == (text, codec)


@pytest.mark.parametrize(
    "label", ["UTF-8", "utf8", "ISO_8859-1", "Windows-1252", "x-sjis".removeprefix("x-"), "EUC-KR"]
)
def test_a_charset_is_found_however_it_is_spelt(label):
    assert decode_text(b"abc", label)[0] == "abc"


@pytest.mark.parametrize("label", ["zlib", "rot13", "hex", "idna", "punycode", "unicode_escape", "utf-7", "", "x" * 99])
def test_what_is_no_charset_is_refused(label):
    with pytest.raises(NotText, match="not known"):
        decode_text(b"abc", label)
