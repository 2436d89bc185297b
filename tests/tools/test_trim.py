"""What is left of huge results before anybody converts them."""

import itertools
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, computed_field
from pydantic_ai import BinaryContent

from pilothouse.kit.jsons import dumps
from pilothouse.kit.sizes import json_size
from pilothouse.runs.clean import MOST_FILE_BYTES, bounded_content, recordable
from pilothouse.tools.trim import trim


class Account(BaseModel):
    name: str
    password: SecretStr = SecretStr("hunter2")
    internal: str = Field(default="internal", exclude=True)
    notes: list[str] = []
    pair: tuple[int, str] = (1, "x")
    tags: set[str] = set()

    @computed_field
    def shout(self) -> str:
        return self.name.upper()


@dataclass(slots=True, frozen=True)
class Point:
    name: str
    values: list[int]


SMALL = ["text", 3, None, [1, 2], {"a": {"b": [1.5]}}, (1, 2), {"x"}, b"bytes", Account(name="a"), Point("p", [1])]


@pytest.mark.parametrize("value", SMALL, ids=lambda value: type(value).__name__)
def test_what_is_not_huge_is_left_alone(value):
    trimmed = trim(value, 1000)
    assert trimmed.value is value
    assert not trimmed.was_cut


def rows(count: int) -> list[Any]:
    return [{"id": number, "name": f"row {number}", "tags": ["a", ("b", 1)]} for number in range(count)]


HUGE: dict[str, Any] = {
    "text": "x" * 5_000_000,
    "bytes": bytes(5_000_000),
    "rows": rows(100_000),
    "a mapping": {str(number): "x" * 10 for number in range(300_000)},
    "one large field": {"a": "x" * 5_000_000, "b": 1},
    "numbers": list(range(1_000_000)),
    "empty lists": [[] for _ in range(500_000)],
    "a set": set(range(500_000)),
    "a tuple": tuple(range(500_000)),
    "points": [Point(f"p{number}", [1, 2, 3]) for number in range(50_000)],
    "accounts": [Account(name=f"a{number}", notes=["x" * 50]) for number in range(20_000)],
    "an account": Account(name="a", notes=["x" * 100] * 100_000, tags={str(n) for n in range(100_000)}),
    "shared": [[["x" * 100] * 1000] * 1000] * 1000,
    "a queue": deque(range(500_000)),
}


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("most", [500, 32_000])
def test_what_is_huge_is_cut_to_a_size_that_does_not_depend_on_it(value, most):
    trimmed = trim(value, most)
    assert trimmed.was_cut
    assert json_size(trimmed.value, 1_000_000) <= 400_000
    shown = recordable(value, most)
    assert len(shown if isinstance(shown, str) else dumps(shown)) <= most
    assert "Cut: the whole result has " in dumps(shown)


def test_a_list_says_how_many_there_were_and_a_text_how_long_it_was():
    assert recordable(rows(100_000), 2_000)["total"] == 100_000
    assert recordable(rows(100_000), 2_000)["items"][0] == {"id": 0, "name": "row 0", "tags": ["a", ["b", 1]]}
    assert "has 5000000 characters" in recordable("x" * 5_000_000, 2_000)
    assert re.search(r"has more than 1\d{5} characters", recordable(rows(100_000), 2_000)["note"])


def test_what_a_models_serializer_hides_stays_hidden_when_it_is_cut():
    shown = dumps(recordable([Account(name=f"a{n}", notes=["x" * 100] * 10) for n in range(5_000)], 4_000))
    assert "hunter2" not in shown
    assert "internal" not in shown
    assert '"password":"**********"' in shown
    assert '"shout":"A0"' in shown


def test_the_value_itself_is_not_changed():
    account = Account(name="a", notes=["x" * 100] * 100_000)
    recordable([account, {"rows": (listed := rows(100_000))}], 1_000)
    assert len(account.notes) == 100_000
    assert len(listed) == 100_000


def test_a_generator_without_end_is_read_as_far_as_it_is_shown():
    assert recordable((number for number in itertools.count()), 500)["items"][:3] == [0, 1, 2]


def test_what_contains_itself_is_an_error_and_not_endless():
    loop: list[Any] = ["x" * 100]
    loop.append(loop)
    assert recordable(loop, 1_000)["error"]["type"] == "unexpected"


def test_a_serializer_that_fails_is_an_error_of_the_tool():
    class Broken(BaseModel):
        @computed_field
        def value(self) -> str:
            raise AttributeError("a bug")

    assert recordable(Broken(), 1_000)["error"]["type"] == "unexpected"


def png(size: int) -> bytes:
    """Bytes that begin as a PNG does."""
    return b"\x89PNG\r\n\x1a\n".ljust(size, b"\0")


def test_files_stay_files_up_to_their_bound():
    image = BinaryContent(png(1_000), media_type="image/png")
    assert recordable(image, 100) is image
    assert recordable([image, "x" * 1_000], 200)[0] is image
    assert len(recordable([image, "x" * 1_000], 200)[1]) == 200
    large = BinaryContent(png(MOST_FILE_BYTES + 1), media_type="image/png")
    assert recordable(large, 1_000)["error"]["type"] == "unexpected"
    assert recordable([image] * 200, 1_000)["error"]["type"] == "unexpected"


def test_what_a_tool_adds_for_the_model_is_bounded_too():
    image = BinaryContent(png(1_000), media_type="image/png")
    large = BinaryContent(png(MOST_FILE_BYTES), media_type="image/png")
    assert len(bounded_content("x" * 1_000_000, 500)) == 500
    text, kept, note = bounded_content(["x" * 1_000, image, large, image], 500)
    assert (len(str(text)), kept) == (500, image)
    assert str(MOST_FILE_BYTES) in str(note)


def test_sizes_are_near_those_of_the_text():
    for value in SMALL:
        assert json_size(value, 10_000) == pytest.approx(len(dumps(value)), abs=60)
    assert json_size([0] * 60_000, 10_000_000) > 10_000_000
    assert json_size(["x"] * 10, 10) > 10
