"""Whatever meets text from outside takes time that grows with its length only.

Every case runs on a megabyte in a process of its own, with a guard on its CPU time (60 s, see nasty.py): linear
work stays far below it, quadratic work (10^12 steps) passes it by hours. Regular expressions are found by reading
the source, so that a new one is tried too, without being named here.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.security.nasty import CASES, EXEMPT, nasty_for

import pilothouse

SOURCE = Path(pilothouse.__file__).parent
ROOT = Path(__file__).parents[2]
HANGS_SECONDS = 900
_USES = {f"re.{name}" for name in ("compile", "search", "match", "fullmatch", "findall", "finditer", "sub", "split")}
_JS_LITERAL = re.compile(
    r"(?<=[=(,:;!&|?\[{}\s])/(?![/*\s])((?:\\.|\[(?:\\.|[^\]\\\n])*+\]|[^/\\\[\n])++)/([dgimsuvy]*)(?=[.,;)\s\]])"
)


def python_patterns() -> Iterator[tuple[str, ast.expr]]:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func
            if ast.unparse(name) in _USES and node.args:
                yield f"{file.relative_to(SOURCE)}:{node.lineno}", node.args[0]
            for keyword in node.keywords:
                if keyword.arg == "pattern":
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", keyword.value


def pattern_of(place: str, node: ast.expr) -> str | bytes | None:
    """The text of a pattern: a literal, or an expression of constants of its module."""
    module = importlib.import_module(
        "pilothouse." + place.partition(".py")[0].replace("/", ".").removesuffix(".__init__")
    )
    try:
        value = eval(compile(ast.Expression(node), place, "eval"), dict(vars(module)))
    except NameError:
        return None  # given at run time
    return value.pattern if isinstance(value, re.Pattern) else value


def javascript_patterns() -> Iterator[tuple[str, str, str]]:
    for file in sorted(SOURCE.rglob("*.js")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if line.lstrip().startswith(("//", "*", "/*")):
                continue
            for found in _JS_LITERAL.finditer(line):
                yield f"{file.relative_to(SOURCE)}:{number}", found[1], found[2]


def in_python(pattern: str, flags: str) -> re.Pattern[str]:
    """A JavaScript pattern as Python's engine, which backtracks likewise, would try it."""
    text = (
        pattern.replace(r"[\p{L}\p{N}]", r"\w")
        .replace("[^]", r"[\s\S]")
        .replace("$", r"\Z" if "m" not in flags else "$")
    )
    text = text.replace(r"\\Z", r"\$")
    text = re.sub(r"\[\[", r"[\\[", text)
    return re.compile(text, (re.IGNORECASE if "i" in flags else 0) | (re.DOTALL if "s" in flags else 0))


def run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.security.nasty", *arguments],
        cwd=ROOT,
        timeout=HANGS_SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_a_megabyte_of_the_nastiest_text_is_soon_done(case: str) -> None:
    run("case", case)


PYTHON = dict(python_patterns())


def test_all_expressions_are_found_and_those_given_at_run_time_are_known() -> None:
    assert len(PYTHON) > 25
    unknown = {place.partition(":")[0] for place, node in PYTHON.items() if pattern_of(place, node) is None}
    assert unknown == EXEMPT


@pytest.mark.parametrize("place", PYTHON)
def test_every_expression_of_the_source_is_linear(place: str) -> None:
    pattern = pattern_of(place, PYTHON[place])
    if pattern is None:
        pytest.skip("given at run time: see EXEMPT")
    flags = re.IGNORECASE if "IGNORECASE" in ast.unparse(PYTHON[place]) else 0
    run("pattern", json.dumps(pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern), str(int(flags)))


JAVASCRIPT = {(pattern, flags): place for place, pattern, flags in javascript_patterns()}


@pytest.mark.parametrize(("pattern", "flags"), JAVASCRIPT)
def test_every_expression_of_the_console_is_linear(pattern: str, flags: str) -> None:
    compiled = in_python(pattern, flags)
    run("pattern", json.dumps(compiled.pattern), str(int(compiled.flags)))


def test_the_expressions_of_the_console_are_found() -> None:
    made = [file.name for file in SOURCE.rglob("*.js") if "new RegExp(" in file.read_text(encoding="utf-8")]
    assert len(JAVASCRIPT) > 20
    assert made == []  # an expression made at run time could not be found here


QUADRATIC = (r"eyJ[\w-]{8,}\.", r"^ .*\S.* $", r"\{\{(.*?)\}\}", r"(?:a|b)*c", r"\s+$", r"-+:?\s*\|?\s*$")


@pytest.mark.parametrize("pattern", QUADRATIC)
def test_the_check_would_find_a_quadratic_expression(pattern: str) -> None:
    """One of its texts takes far more than eight times the work when it is eight times as long."""

    def cost(text: str) -> float:
        began = time.thread_time()
        re.search(pattern, text)
        return time.thread_time() - began

    pairs = zip(nasty_for(pattern, 1_000), nasty_for(pattern, 8_000), strict=True)
    assert max(cost(long) / max(cost(short), 1e-5) for short, long in pairs) > 20
