import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.exceptions import ModelRetry, ToolFailed

from pilothouse.errors import Forbidden, Unavailable
from pilothouse.kit.jsons import dumps, loads
from pilothouse.tools import tool_error
from pilothouse.tools.results import classify_exception, error_in, shorten, summarize


def http_error(status: int) -> httpx2.HTTPStatusError:
    request = httpx2.Request("GET", "https://shop.example/secret?token=abc")
    return httpx2.HTTPStatusError("secret abc", request=request, response=httpx2.Response(status, request=request))


class AiohttpLike(Exception):
    status = 404


class RequestsLike(OSError):
    def __init__(self, status_code: int) -> None:
        super().__init__("secret abc")
        self.response = FalsyResponse(status_code)


class FalsyResponse:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code

    def __bool__(self) -> bool:
        return self.status_code < 400


@pytest.mark.parametrize(
    ("exception", "kind", "retryable", "status"),
    [
        (TimeoutError(), "timeout", True, None),
        (httpx2.ReadTimeout("secret abc"), "timeout", True, None),
        (http_error(404), "http_error", False, 404),
        (http_error(429), "http_error", True, 429),
        (http_error(503), "http_error", True, 503),
        (AiohttpLike(), "http_error", False, 404),
        (RequestsLike(500), "http_error", True, 500),
        (ConnectionRefusedError("secret abc"), "http_error", True, None),
        (httpx2.ConnectError("secret abc"), "http_error", True, None),
        (ValueError("secret abc"), "unexpected", False, None),
        (ExceptionGroup("secret", [http_error(404)]), "http_error", False, 404),
        (ExceptionGroup("secret", [ValueError("secret"), TimeoutError()]), "unexpected", False, None),
        (Forbidden("You may not."), "forbidden", False, None),
        (Unavailable("Away."), "rejected", True, None),
        (ToolFailed("No such city."), "rejected", False, None),
        (ModelRetry("Give a city."), "rejected", True, None),
    ],
)
def test_exceptions_become_errors_a_model_can_act_on(exception, kind, retryable, status):
    error = classify_exception(exception)["error"]
    assert (error["type"], error["retryable"], error.get("status")) == (kind, retryable, status)
    assert "secret" not in dumps(error)
    assert "abc" not in dumps(error)


def test_an_unforeseen_exception_tells_only_its_class():
    assert classify_exception(KeyError("/etc/passwd")) == tool_error("unexpected", "The tool failed with KeyError.")


def test_errors_tools_return_themselves_are_recognised():
    assert error_in(tool_error("rejected", "Already refunded.")) == {
        "type": "rejected",
        "message": "Already refunded.",
        "retryable": False,
    }
    for other in ({"error": None}, {"error": "text"}, "error", None, [], {"ok": 1}):
        assert error_in(other) is None


def test_what_fits_is_left_as_it_is():
    value = {"a": [1, 2, 3]}
    assert shorten(value, 100) == (value, False)
    assert shorten("x" * 100, 100) == ("x" * 100, False)


def test_long_text_is_cut_with_a_note_how_much_there_was():
    text, cut = shorten("wörter " * 1000, 300)
    assert cut
    assert len(text) <= 300
    assert text.startswith("wörter wörter")
    assert "7000 characters" in text
    assert "Ask for less" in text


def test_long_lists_keep_whole_items():
    rows = [{"id": number, "name": "x" * 20} for number in range(1000)]
    value, cut = shorten(rows, 2000)
    assert cut
    assert value["items"] == rows[: len(value["items"])]
    assert len(value["items"]) > 20
    assert value["total"] == 1000
    assert len(dumps(value)) <= 2000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=json_values, limit=st.integers(min_value=256, max_value=600), times=st.integers(1, 200))
def test_whatever_comes_out_is_json_and_fits(value, limit, times):
    big = {"again": [value] * times}
    for candidate in (value, big, [value] * times):
        shown, cut = shorten(candidate, limit)
        length = len(shown) if isinstance(shown, str) else len(dumps(shown))
        assert length <= limit
        assert loads(dumps(shown)) == loads(dumps(shown))
        assert cut == (
            length != len(candidate if isinstance(candidate, str) else dumps(candidate)) or shown != candidate
        )


def test_summaries_are_one_short_line():
    assert summarize({"a": 1}) == '{"a":1}'
    assert summarize("a\n\n b") == "a b"
    assert len(summarize("ü" * 5000)) == 300
    assert summarize("ü" * 5000).endswith("…")
