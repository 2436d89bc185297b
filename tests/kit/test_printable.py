"""There is one definition of unsafe characters, and each place that shows or stores text from outside uses it."""

import json
import unicodedata

import pytest

from pilothouse.agents import callers_data
from pilothouse.audit.record import bounded
from pilothouse.conversations.attachments import prepare
from pilothouse.identity.principal import is_name
from pilothouse.kit.printable import cleaned, escape_json, has_unsafe, is_unsafe, one_line, printable

CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINING = "\u200c\u200d\ufe0e\ufe0f"
SHOWN_AS_NOTHING = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u3164\ufe00\uffa0\U000e0100\U000e01ef"
HIDDEN = [
    *(character for character in map(chr, range(0x110000)) if unicodedata.category(character) in CATEGORIES),
    *SHOWN_AS_NOTHING,
]
OUTSIDE_OF_TEXT = [character for character in HIDDEN if character not in JOINING]


def test_all_characters_of_the_categories_and_those_shown_as_nothing_are_unsafe_and_letters_are_not():
    assert [character for character in (*HIDDEN, *JOINING) if not is_unsafe(character)] == []
    letters = [character for character in map(chr, range(0x110000)) if unicodedata.category(character) in {"Lu", "Nd"}]
    assert [character for character in letters if is_unsafe(character)] == []


def test_none_of_them_is_left_in_what_is_shown_or_stored():
    text = "".join(OUTSIDE_OF_TEXT)
    for shown in (one_line(text), cleaned(text, "?"), bounded(text, len(text)), callers_data.one_line(text)):
        assert set(shown or "") & set(OUTSIDE_OF_TEXT) == set()
    assert set(printable(text)) & set(OUTSIDE_OF_TEXT) == {"\n", "\t"}


def test_json_of_them_means_the_same():
    document = json.dumps("".join(OUTSIDE_OF_TEXT).encode("utf-8", "replace").decode(), ensure_ascii=False)
    escaped = escape_json(document)
    assert json.loads(escaped) == json.loads(document)
    assert set(escaped) & set(OUTSIDE_OF_TEXT) == set()


def test_words_and_emoji_that_are_joined_stay_whole_in_text():
    text = "می‌خواهم ❤️ 👩🏽‍🚀"
    assert printable(text) == one_line(text) == cleaned(text, "?") == text


@pytest.mark.parametrize("character", ["\u202e", "\u200b", "\u3164", "\U000e0041", "\x00", "\n"])
def test_no_name_of_a_tenant_or_subject_holds_one(character):
    assert has_unsafe(f"ada{character}")
    assert not is_name(f"ada{character}", most=10)


@pytest.mark.parametrize("character", ["\u061c", "\ufff9", "\u200b", "\U000e0041", "\u3164"])
def test_the_name_of_a_file_holds_none(character):
    assert prepare("text/plain", "aGk=", f"a{character}b.txt").name == "a b.txt"


@pytest.mark.parametrize("character", ["\ufe0f", "\ufe00", "\U000e0100", "\U000e01ef", "\u034f", "\u3164", "\u17b5"])
def test_what_a_caller_sends_into_a_prompt_hides_nothing(character):
    assert character not in callers_data.marked("name", f"a{character}b")
    assert json.loads(f'"{callers_data.one_line(character)}"') == character
