"""The docs are true: generated pages are current, pictures match the contracts, links lead somewhere, examples run."""

import configparser
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse import Pilothouse
from pilothouse.settings import CLIENT_VARIABLES, PREFIX, load_settings, setting_names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("README.md")])
GUIDES = sorted((DOCS / "guide").glob("*.md"))
TO_COME = {"docs/images/console.png", "docs/benchmarks.md"}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_configuration_reference_is_current() -> None:
    script = ROOT / "scripts" / "configuration.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_picture_of_packages_is_the_one_that_is_enforced() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    enforced = contracts["importlinter:contract:packages"]["layers"].split("\n")
    picture = (DOCS / "architecture.md").read_text().split("```text\n")[1].split("```")[0]
    drawn = [re.split(r"\s{2,}", line)[0] for line in picture.splitlines()]
    assert drawn == [row.strip() for row in enforced if row.strip()]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    missing: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            if path.is_relative_to(ROOT) and named(path) in TO_COME:
                continue
            missing.append(target)
        elif anchor and path.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}:
                missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_that_pages_name_exist(page: Path) -> None:
    words = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]\b(?!_)", page.read_text(encoding="utf-8")))
    known = set(setting_names()) | CLIENT_VARIABLES
    assert {
        word for word in words if word not in known and not any(name.startswith(f"{word}_") for name in known)
    } == set()


def test_every_route_is_described() -> None:
    page = (DOCS / "http.md").read_text(encoding="utf-8")
    described = {re.sub(r"\{[^}]+\}", "{}", path) for path in re.findall(r"/(?:v1|health)/[\w/{}.-]*", page)}
    described |= {f"/v1/runs{rest}" for rest in re.findall(r"`/\{id\}(/\w+)`", page)}
    routes = {re.sub(r"\{[^}]+\}", "{}", path) for path in Pilothouse(load_settings(None)).fastapi.openapi()["paths"]}
    assert routes - described == set(), "routes that docs/http.md does not name"
    assert {path.rstrip("/.") for path in described} - routes - {"/v1/chat/ws/{}"} == set(), "named, but not there"


def test_every_type_of_event_is_described() -> None:
    table = (DOCS / "http.md").read_text(encoding="utf-8").split("## Events")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| `([a-z.]+)` \|", table, re.MULTILINE))
    told: set[str] = set()
    for path in (ROOT / "src" / "pilothouse" / "runs").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        told |= set(re.findall(r'(?:state_fact|show_now)\(\s*"([a-z.]+)"', text))
        told |= set(re.findall(r'"((?:run|step|tool|text|reasoning|approval)\.[a-z]+)"', text))
    assert told == described


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [*GUIDES, ROOT / "README.md"], ids=named)
async def test_examples_run(page: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for text in blocks(page, "markdown"):
        (prompts / "support.md").write_text(text)
    source = "\n".join(blocks(page, "python"))
    if not source:
        pytest.skip("no Python on this page")
    file = tmp_path / f"{page.stem.replace('-', '_').lower()}_example.py"
    file.write_text(source)
    names: dict[str, Any] = runpy.run_path(str(file))
    for name, test in names.items():
        if name.startswith("test_"):
            (tmp_path / name).mkdir()
            await test(tmp_path / name)
