import io
import json
import logging
import warnings

import pytest
import structlog
from pydantic import SecretStr
from structlog.contextvars import bound_contextvars

from pilothouse.observability import configure_logging, get_logger
from pilothouse.observability.logs import is_secret_name, mask_text
from pilothouse.settings import LogSettings


@pytest.fixture
def restored():
    """The process's logging, put back after the test."""
    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    root.setLevel(level)
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    warnings.showwarning = show


@pytest.fixture
def logs(restored):
    """`out = logs(level=..., format=..., environment=...)`: what is written from now on."""

    def configure(*, environment="production", stream=None, **settings):
        out = stream or io.StringIO()
        configure_logging(LogSettings(**settings), environment, stream=out)
        return out

    return configure


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(out):
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_event_and_logger(logs):
    out = logs()
    get_logger("pilothouse.test").info("started", port=8420)
    (line,) = lines(out)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": "started", "logger": "pilothouse.test", "port": 8420}


def test_bound_context_is_on_every_line_of_ours_and_of_libraries(logs):
    out = logs()
    with bound_contextvars(request_id="r1", run_id="run_1", conversation_id="conv_1", tenant="acme"):
        get_logger("a").info("ours")
        logging.getLogger("alembic.runtime").warning("theirs %d", 7)
    ours, theirs = lines(out)
    for line in (ours, theirs):
        assert (line["request_id"], line["run_id"], line["conversation_id"], line["tenant"]) == (
            "r1",
            "run_1",
            "conv_1",
            "acme",
        )
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("theirs 7", "alembic.runtime", "warning")


def test_lines_below_the_level_are_not_written(logs):
    out = logs(level="warning")
    get_logger("a").info("no")
    logging.getLogger("some.library").info("no")
    get_logger("a").warning("yes")
    assert [line["event"] for line in lines(out)] == ["yes"]


def test_sdk_loggers_that_print_bodies_stay_quiet_even_at_debug(logs):
    out = logs(level="debug")
    logging.getLogger("openai._base_client").debug("Request options: everything the user said")
    logging.getLogger("uvicorn.access").info("GET /")
    get_logger("a").debug("yes")
    assert [line["event"] for line in lines(out)] == ["yes"]


def test_a_terminal_in_development_gets_pretty_lines_and_production_json(logs):
    out = logs(environment="development", stream=Terminal())
    get_logger("a").info("hello", number=1)
    assert "\x1b[" in out.getvalue()
    assert "hello" in out.getvalue()
    out = logs(environment="production", stream=Terminal())
    get_logger("a").info("hello")
    assert lines(out)[0]["event"] == "hello"
    out = logs(environment="development")
    get_logger("a").info("hello")
    assert lines(out)[0]["event"] == "hello"
    out = logs(format="pretty")
    get_logger("a").info("hello")
    assert not out.getvalue().startswith("{")


KEY = "ph_0123456789abcdef"
PROVIDER_KEY = "sk-proj-abc_DEF-1234567890"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"Authorization: Bearer {JWT}",
        f"bearer.{JWT}",
        f"the key {PROVIDER_KEY} is wrong",
        "postgresql://bob:hunter2@db/app",
        {"deep": [{"deeper": (KEY,)}]},
        {"password": "hunter2"},
        {"api_key": ["hunter2"]},
        {"accessToken": "hunter2"},
        SecretStr("hunter2"),
    ],
)
def test_no_secret_reaches_the_output(logs, value, pretty):
    out = logs(format="pretty" if pretty else "json")
    get_logger("a").info(f"said {value}" if isinstance(value, str) else "said", value=value)
    logging.getLogger("lib").warning("said %s", value if isinstance(value, str) else "nothing")
    text = out.getvalue()
    assert "said" in text
    for secret in ("0123456789abcdef", "abc_DEF", "eyJzdWIi", "hunter2"):
        assert secret not in text


@pytest.mark.parametrize(
    "name", ["token", "api_key", "jwt_secret", "Authorization", "x-api-key", "refreshToken", "DB_PASSWORD"]
)
def test_values_under_secret_names_are_hidden(logs, name):
    out = logs()
    get_logger("a").info("x", **{name: "hunter2", "also": {name: 12345}})
    assert "hunter2" not in out.getvalue()
    assert "12345" not in out.getvalue()


def test_what_only_looks_like_a_secret_is_shown(logs):
    out = logs()
    get_logger("a").info(
        "x", input_tokens=310, output_tokens=18, path="/graph_traversal_of_nodes", task="ask-something-long"
    )
    (line,) = lines(out)
    assert (line["input_tokens"], line["output_tokens"]) == (310, 18)
    assert line["path"] == "/graph_traversal_of_nodes"
    assert line["task"] == "ask-something-long"
    assert not is_secret_name("max_tokens")
    assert mask_text("http://host:80/path@x") == "http://host:80/path@x"


def test_traces_are_one_json_line_masked_and_without_local_variables(logs):
    out = logs()
    try:
        local = "visible-only-as-a-local"
        raise ValueError(f"bad key {KEY}" + local[:0])
    except ValueError:
        get_logger("a").exception("failed")
        logging.getLogger("uvicorn.error").exception("failed too")
    ours, theirs = lines(out)
    for line in (ours, theirs):
        assert "Traceback" in line["exception"]
        assert "ValueError: bad key ***" in line["exception"]
        assert line["level"] == "error"
    pretty = logs(format="pretty")
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError:
        get_logger("a").exception("failed")
    assert "bad key ***" in pretty.getvalue()


def test_nothing_a_line_may_hold_breaks_the_logger(logs):
    class Bad:
        def __str__(self):
            raise RuntimeError

    cycle: list = []
    cycle.append(cycle)
    out = logs()
    get_logger("a").info("x", bad=Bad(), surrogate="\ud800", nul="\x00", cycle=cycle, data=b"\xff", keys={1: {2: 3}})
    get_logger("a").info("\ud800 {} %s")
    assert len(lines(out)) == 2


def test_a_closed_output_loses_lines_and_raises_nothing(logs):
    out = logs()
    log = get_logger("a")
    log.info("x")
    out.close()
    log.info("y")


def test_configuring_twice_writes_each_line_once(logs):
    logs()
    out = logs()
    get_logger("a").info("x")
    logging.getLogger("lib").warning("y")
    assert len(lines(out)) == 2


def test_python_warnings_go_the_same_way(logs):
    out = logs()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in lines(out)[0]["event"]
    assert lines(out)[0]["logger"] == "py.warnings"
