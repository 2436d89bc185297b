"""Rules of the house that a linter can't be told otherwise. Exceptions are named here, each with its reason."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "pilothouse"
MOST_LINES = 400
MOST_FUNCTION_LINES = 60

LONG_FILES: dict[str, str] = {
    "runs/active.py": "all a run has done so far, and how each thing is recorded: one state, one owner",
}
LONG_FUNCTIONS: dict[str, str] = {
    "db/migrations/versions/0001_first_tables.py:upgrade": "a migration is a list of tables",
}
SQLALCHEMY_ANYWHERE = {"Connection", "Row"}  # what a unit of work is handed, and what comes back
SQLALCHEMY_ALSO: dict[str, tuple[set[str], str]] = {
    "services.py": ({"make_url"}, "chooses what to open by the address"),
    "cli/actions/": ({"make_url"}, "names the database to people, without its password"),
    "runs/reaper.py": ({"Select"}, "carries the engine's question about the living into a statement of its own"),
    "testing/chaos/postgres_faults.py": (
        {"text", "AsyncEngine", "create_async_engine", "NullPool"},
        "does to a PostgreSQL under test what an administrator or a forgotten session does",
    ),
}
PRINTING = {"cli": "what a command says is its output"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SRC.rglob("*.py")):
        yield path.relative_to(SRC).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_packages_keep_their_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_sql_is_written_in_repositories_tables_and_db_only() -> None:
    found: list[str] = []
    for name, tree in modules():
        if name.startswith("db/") or name.endswith(("repository.py", "tables.py")):
            continue
        also = [names for place, (names, _why) in SQLALCHEMY_ALSO.items() if name.startswith(place)]
        allowed = SQLALCHEMY_ANYWHERE.union(*also)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [f"{name}: import {item.name}" for item in node.names if item.name.startswith("sqlalchemy")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
                if node.module == "sqlalchemy.exc":
                    continue
                found += [f"{name}: {item.name}" for item in node.names if item.name not in allowed]
    assert found == []


def test_no_import_is_relative() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert found == []


def test_no_import_is_hidden_to_dodge_a_cycle() -> None:
    """What is loaded late, for a quick start or an optional driver, could as well stand at the top."""
    graph = grimp.build_graph("pilothouse", cache_dir=None)
    found: list[str] = []
    for name, tree in modules():
        importer = ".".join(["pilothouse", *Path(name).with_suffix("").parts]).removesuffix(".__init__")
        hidden = [
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            for inner in ast.walk(node)
            if isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("pilothouse")
        ]
        for node in hidden:
            for imported in (f"{node.module}.{item.name}" for item in node.names):
                target = imported if imported in graph.modules else str(node.module)
                if graph.chain_exists(importer=target, imported=importer):
                    found.append(f"{name}:{node.lineno}: {target} imports {importer} too")
    assert found == []


def test_files_and_functions_stay_short() -> None:
    found: list[str] = []
    used: set[str] = set()
    for name, tree in modules():
        lines = len((SRC / name).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            used.add(name)
            if name not in LONG_FILES:
                found.append(f"{name}: {lines} lines")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
            if length > MOST_FUNCTION_LINES:
                used.add(f"{name}:{node.name}")
                if f"{name}:{node.name}" not in LONG_FUNCTIONS:
                    found.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
    assert found == []
    assert set(LONG_FILES) | set(LONG_FUNCTIONS) <= used, "an exception that is no longer needed"


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0


def test_nothing_is_printed_but_by_commands() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        if name.split("/")[0].removesuffix(".py") not in PRINTING
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "breakpoint"}
    ]
    assert found == []


def test_no_file_names_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.:/*\-])/(?:opt|mnt|root|home|work\w*|Users)/[\w.]")
    found: list[str] = []
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if not path.is_file() or path.suffix in {".png", ".ico", ".woff2", ".svg"} or name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if place.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []
