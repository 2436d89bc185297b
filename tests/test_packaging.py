"""What is declared is what is used, and what is locked is what is declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BASE = [Requirement(item) for item in PROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(item) for item in items] for extra, items in PROJECT["project"]["optional-dependencies"].items()
}
DEVELOPMENT = [Requirement(item) for item in PROJECT["dependency-groups"]["dev"]]

# Not imported by name: what uvicorn runs on.
UNDERNEATH = {"httptools", "websockets"}
# Imported, and declared by what we declare: the two SDKs are extras of pydantic-ai-slim, the rest are its makers' own.
BROUGHT = {"anthropic", "openai", "pydantic-core", "starlette"}


def imported() -> set[str]:
    """The distributions that `src` imports."""
    owners = packages_distributions()
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            tops = {name.split(".")[0] for name in names} - {"pilothouse"} - sys.stdlib_module_names
            found |= {canonicalize_name(owners[top][0]) for top in tops}
    return found


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    declared = {canonicalize_name(item.name) for item in BASE}
    optional = {canonicalize_name(item.name) for items in EXTRAS.values() for item in items}
    used = imported()
    assert used - declared - optional - BROUGHT == set(), "imported, but not declared"
    assert declared - used - UNDERNEATH == set(), "declared, but not imported"


@pytest.mark.parametrize(
    ("lock", "declared"),
    [("base.lock", BASE), ("dev.lock", [*BASE, *DEVELOPMENT, *(item for items in EXTRAS.values() for item in items)])],
)
def test_what_is_declared_is_locked_with_hashes_and_from_no_particular_index(
    lock: str, declared: list[Requirement]
) -> None:
    lines = (ROOT / "requirements" / lock).read_text(encoding="utf-8").splitlines()
    pins: dict[str, str] = {}
    hashes = 0
    for line in lines:
        if line.strip().startswith("#"):
            continue
        if re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line):
            hashes += 1
            continue
        pin = re.fullmatch(r"([\w.-]+)==([\w.]+)( ; .+)? \\", line)
        assert pin, f"{line!r} is no plain pin with hashes"
        assert hashes or not pins, "a pin without a hash"
        pins[canonicalize_name(pin[1])], hashes = pin[2], 0
    unmet = [str(item) for item in declared if not item.specifier.contains(pins.get(canonicalize_name(item.name), "0"))]
    assert unmet == [], "run: make lock"


def test_extras_that_messages_name_exist() -> None:
    named = {
        extra
        for place in ("src", "docs", "README.md")
        for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*.*"))
        if path.suffix in {".py", ".md"}
        for extra in re.findall(r"pilothouse\[([\w-]+)\]", path.read_text(encoding="utf-8"))
    }
    assert named <= set(EXTRAS)


def test_extras_with_the_driver_of_postgresql_bring_what_sqlalchemy_needs_for_it() -> None:
    """SQLAlchemy's asyncio part needs greenlet, which only that extra of it brings. `make extras` tries it for real."""
    for extra, items in EXTRAS.items():
        brought = {canonicalize_name(item.name): item.extras for item in items}
        if "asyncpg" in brought:
            assert "asyncio" in brought.get("sqlalchemy", set()), extra
