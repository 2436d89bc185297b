"""The nastiest texts we know, and what takes them: `python -m tests.security.nasty case NAME | pattern TEXT FLAGS`."""

import asyncio
import io
import json
import re
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

MEGABYTE = 1_000_000
GUARD_SECONDS = 60
GENERIC_SIZE = 200_000  # there are hundreds for each expression; quadratic work on one takes ten minutes
MOST_TEXTS = 150
EXEMPT = {"testing/provider/script.py", "testing/provider/selection.py"}
"""Modules that compile an expression given at run time: that of the author of a test's script, for their own test."""

PIECES = (
    *("eyJ-", "eyJhbGciOiJIUzI1NiJ9.", "sk-", "ph_", "://", "://a:b", "://a:b@", "a@", "AKIA", "1:AA", "123456:AA-"),
    *(
        "password=",
        'token="',
        "token='token=\"",
        "secret: ",
        "api_key>",
        "cookie: a",
        "cookie:a=b;",
        "Basic a",
        "bearer ",
    ),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "-----END ",
        "-",
        "hooks.slack.com/services/",
        "\\",
        '\\"',
        '"',
        "'",
    ),
    *(
        "{{",
        "{{ a ",
        "{{ a {{ b }",
        "}",
        "`",
        "``a`",
        "[",
        "[a](",
        "![](",
        "(",
        "<",
        "<a",
        "https://",
        "*a ",
        "**a ",
        "_a",
    ),
    *(" ", "\t", "\n", "\r", "\r\n", "\r\r\n", "a ", "a\n\n", "# ", "|", "|-", "> ", "- ", "1. ", "~~~", "#1", "1042 "),
    *(
        "\x1b[31m",
        "\x9b",
        "\u202e",
        "\x00",
        "é",
        "数",
        "😀",
        "\ud800",
        "0",
        "a",
        "A",
        "%3D",
        "&a=",
        ";",
        ":",
        "data:a\n",
        "data:",
    ),
    *("\\u0000", "\\\\u0000", "\\ud800", '{"a":', "[[", '"obfuscation":"', '"obfuscation":  ', "id: 1\n", "event: a\n"),
)


def texts(size: int = MEGABYTE) -> Iterator[str]:
    """Each piece over and over, with something else at the end."""
    for piece in PIECES:
        yield piece * (size // len(piece)) + "!"
    yield " ".join("`" * length for length in range(1, 1_400))


# --- expressions ---------------------------------------------------------------------------------------------------


def nasty_for(pattern: str, size: int, flags: int = 0) -> Iterator[str]:
    """Texts that begin like a match of `pattern`, go on for long, and end as no match does; made from its own parts."""
    parsed = parser.parse(pattern, flags & ~re.UNICODE.value)
    classes = sorted(set(_samples(parsed)) or {"a"})
    begins = dict.fromkeys("".join(walk[:end]) for walk in _walks(parsed) for end in range(len(walk) + 1))
    made = [(begin, loop) for begin in begins for loop in ([*classes, begin, f"{begin}!"] if begin else classes)]
    for begin, loop in made[:: 1 + len(made) // MOST_TEXTS]:
        yield begin + loop * (size // len(loop)) + "!\x00"


def _walks(parsed: Any) -> Iterator[list[str]]:
    """Ways through a pattern: each branch once, each repetition once or as often as it must be."""
    tails: list[list[str]] = [[]]
    for op, value in parsed:
        steps = list(_steps(op, value))
        tails = [tail + step for tail in tails[:1] for step in steps] + [tail + steps[0] for tail in tails[1:]]
        tails = tails[:40]
    yield from tails


def _steps(op: Any, value: Any) -> Iterator[list[str]]:
    if op in {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}:
        least, _most, inner = value
        for walk in _walks(inner):
            yield ["".join(walk)] * max(1, min(least, 20))
    elif op is sre.SUBPATTERN:
        yield from _walks(value[-1])
    elif op is sre.ATOMIC_GROUP:
        yield from _walks(value)
    elif op is sre.BRANCH:
        for branch in value[1]:
            yield from _walks(branch)
    elif (char := _sample(op, value)) is not None:
        yield [char]
    else:
        yield []


def _sample(op: Any, value: Any) -> str | None:
    if op is sre.LITERAL:
        return chr(value)
    if op is sre.NOT_LITERAL:
        return "a" if value != ord("a") else "b"
    if op is sre.ANY:
        return "a"
    if op is sre.IN:
        kind, inner = value[0]
        if kind is sre.LITERAL:
            return chr(inner)
        if kind is sre.RANGE:
            return chr(inner[0])
        if kind is sre.CATEGORY:
            return {sre.CATEGORY_SPACE: " ", sre.CATEGORY_DIGIT: "1", sre.CATEGORY_WORD: "a"}.get(inner, "a")
        return "a"
    return None


def _samples(parsed: Any) -> Iterator[str]:
    for op, value in parsed:
        if op is not sre.LITERAL and (char := _sample(op, value)) is not None:
            yield char
        elif op in {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}:
            yield from _samples(value[2])
        elif op is sre.SUBPATTERN:
            yield from _samples(value[-1])
        elif op is sre.ATOMIC_GROUP:
            yield from _samples(value)
        elif op is sre.BRANCH:
            for branch in value[1]:
                yield from _samples(branch)


def try_pattern(pattern: str, flags: int) -> None:
    compiled = re.compile(pattern, flags & ~re.UNICODE.value)
    for text in nasty_for(pattern, GENERIC_SIZE, flags):
        for _ in compiled.finditer(text):
            continue
        compiled.fullmatch(text)


# --- what takes text from outside ----------------------------------------------------------------------------------


def logs() -> None:
    import logging

    from pilothouse.observability import configure_logging, get_logger
    from pilothouse.settings import LogSettings

    for style in ("json", "pretty"):
        configure_logging(LogSettings(format=style), "production", stream=io.StringIO())
        log = get_logger("a")
        for text in texts():
            log.info(text, value=text, items=[text, {text: text}], data=text.encode("utf-8", "replace"))
            log.error("failed", exc_info=ValueError(text))
            logging.getLogger("lib").warning("said %s", text)


def masking() -> None:
    from pilothouse.kit.masking import mask_bounded, mask_text

    for text in texts(MEGABYTE // 4):
        mask_text(f"password={text}")
        mask_bounded(text, 50_000)


def printing() -> None:
    from pilothouse.cli.actions.screen import Screen
    from pilothouse.cli.actions.sse import Event
    from pilothouse.kit.printable import escape_json, one_line, printable

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for text in texts():
        printable(text)
        escape_json(text[: MEGABYTE // 4])
        one_line(text[: MEGABYTE // 4])
    screen = Screen(Terminal(), Terminal())
    for at in range(MEGABYTE // 10):
        screen.show(Event(f"1-{at}", "text.delta", {"step": 1, "text": "\x1b[3"}))


def templates() -> None:
    from pathlib import Path

    from pilothouse.agents.prompts import parse_prompt
    from pilothouse.errors import StartupError

    for text in texts():
        try:
            prompt = parse_prompt(b"---\nvariables:\n  a: x\n---\n" + text.encode("utf-8", "replace"), Path("a.md"))
            prompt.render({"a": text})
        except StartupError:
            continue


def streams() -> None:
    from pilothouse.cli.actions.sse import read_events
    from pilothouse.http.sse import encode_event
    from pilothouse.llm.sse import EventMeter, EventSplitter, find_data

    async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(data), size):
            yield data[at : at + size]

    async def read(data: bytes, size: int) -> None:
        async for _ in read_events(chunks(data, size)):
            continue

    for text in texts(MEGABYTE):
        data = text.encode("utf-8", "replace")
        encode_event("1-1", "a", data)
        find_data(data)
        for size in (1_000, 65_536):
            splitter, meter = EventSplitter(), EventMeter()
            for at in range(0, len(data), size):
                splitter.feed(data[at : at + size])
                meter.feed(data[at : at + size])
            asyncio.run(read(data, size))
    for piece in (b"a", b"\r", b"data:", b"\n", b"data: a\n"):
        data = piece * (MEGABYTE // len(piece))
        splitter, meter = EventSplitter(), EventMeter()
        for at in range(0, len(data), 5):
            splitter.feed(data[at : at + 5])
            meter.feed(data[at : at + 5])
        asyncio.run(read(data, 5))


def deltas() -> None:
    """The stream of a model whose every event is as long as can be, or as odd."""
    from pydantic_core import to_json

    from pilothouse.llm.deltas import StreamTrace
    from pilothouse.llm.shortway import ShortWay
    from pilothouse.llm.wires import OpenAIChat

    class Sink:
        def text(self, text: str) -> None: ...
        def reasoning(self, text: str) -> None: ...
        def restarted(self, reason: str) -> None: ...
        def first_byte(self) -> None: ...

    def event(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        body = {
            "id": "a",
            "object": "chat.completion.chunk",
            "model": "m",
            "obfuscation": text[:9],
            "choices": [choice],
        }
        return b"data: " + to_json(body) + b"\n\n"

    for text in texts(MEGABYTE // 4):
        clean = text.encode("utf-8", "replace").decode()
        way = ShortWay(OpenAIChat(), StreamTrace(Sink()))
        for _ in range(3):
            way.feed(event("a") + event("b") + event(clean) + b'data: {"obfuscation":"' + clean.encode() + b"\n\n")
        way.finish()


def bodies() -> None:
    from pilothouse.errors import PilothouseError
    from pilothouse.http.bodies import read_json
    from pilothouse.http.problems import invalid_request

    for text in texts():
        clean = text.encode("utf-8", "replace").decode()
        for body in (clean, f'"{clean}"', f'"\\u0000{clean}', f'"{clean}\\ud800"'):
            try:
                read_json(body)
            except PilothouseError:
                continue
        error = {"type": "string_type", "loc": ("body", clean), "msg": f"not {clean!r}", "input": clean}
        invalid_request([error] * 3)


def results() -> None:
    from pilothouse.cli.actions.screen import effects
    from pilothouse.db.values import column_text, encodable
    from pilothouse.llm.tokens import estimate_tokens
    from pilothouse.runs.clean import bounded_content, recordable

    for text in texts():
        for value in (text, [text] * 3, {text: text}):
            recordable(value, 20_000)
        bounded_content(text, 20_000)
        column_text(text, 200)
        encodable(text)
        estimate_tokens(text)
        effects([{"tool": text}])


def demo() -> None:
    from pilothouse.demo.script import plan

    for text in texts(MEGABYTE // 2):
        plan(text, [text])


def identity() -> None:
    from datetime import UTC, datetime

    from pilothouse.cli.actions.keys import parse_expiry
    from pilothouse.errors import PilothouseError
    from pilothouse.kit.masking import is_secret_name

    for text in texts():
        is_secret_name(text)
        try:
            parse_expiry(text, datetime(2026, 1, 1, tzinfo=UTC))
        except PilothouseError:
            continue


CASES: dict[str, Callable[[], None]] = {
    case.__name__: case
    for case in (logs, masking, printing, templates, streams, deltas, bodies, results, demo, identity)
}

if __name__ == "__main__":
    # Of the processor, not of the clock: other tests take their share.
    resource.setrlimit(resource.RLIMIT_CPU, (GUARD_SECONDS, GUARD_SECONDS))
    if sys.argv[1] == "case":
        CASES[sys.argv[2]]()
    else:
        try_pattern(json.loads(sys.argv[2]), int(sys.argv[3]))
