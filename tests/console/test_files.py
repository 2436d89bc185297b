"""The console's files as they are served; no browser needed."""

import re
from importlib import resources

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from pilothouse.console import console_router, mount_console

STATIC = resources.files("pilothouse.console") / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    mount_console(app)
    return TestClient(app)


def page(client: TestClient) -> httpx2.Response:
    return client.get("/console/")


def asset_paths(client: TestClient) -> list[str]:
    return re.findall(r'(?:href|src)="(assets/[^"]+)"', page(client).text)


def sources(*endings: str) -> dict[str, str]:
    def walk(folder: object, prefix: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in folder.iterdir():  # type: ignore[attr-defined]
            if entry.is_dir():
                found |= walk(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(endings):
                found[f"{prefix}{entry.name}"] = entry.read_text("utf-8")
        return found

    return walk(STATIC)


def test_the_page_is_never_stored_and_its_policy_is_strict(client: TestClient) -> None:
    answer = page(client)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_every_file_the_page_names_is_there_and_kept_for_ever(client: TestClient) -> None:
    paths = asset_paths(client)
    assert len(paths) > 20
    for path in paths:
        answer = client.get(f"/console/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css", "image/svg+xml"))


def test_every_module_is_preloaded(client: TestClient) -> None:
    paths = {path.split("/", 2)[2] for path in asset_paths(client)}
    assert set(sources(".js")) <= paths


def test_files_of_another_release_are_not_found_and_not_stored(client: TestClient) -> None:
    version = asset_paths(client)[0].split("/")[1]
    for path in (
        "assets/0000000000000000/js/app.js",
        f"assets/{version}/js/nothing.js",
        f"assets/{version}/index.html",
    ):
        answer = client.get(f"/console/{path}")
        assert answer.status_code == 404
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["../routes.py", "%2e%2e/routes.py", "..%2froutes.py", "/etc/passwd", "js/../../routes.py"]
)
def test_no_path_leads_out_of_the_static_files(client: TestClient, path: str) -> None:
    version = asset_paths(client)[0].split("/")[1]
    assert client.get(f"/console/assets/{version}/{path}").status_code == 404


def test_the_address_without_a_slash_leads_to_the_page_behind_any_prefix(client: TestClient) -> None:
    answer = client.get("/console", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == "console/"
    assert client.get("/console").status_code == 200


def test_head_answers_like_get_without_a_body(client: TestClient) -> None:
    answer = client.head("/console/")
    assert answer.status_code == 200
    assert answer.content == b""


def test_files_are_packed_for_those_who_can_unpack(client: TestClient) -> None:
    packed = client.get("/console/", headers={"Accept-Encoding": "gzip"})
    plain = client.get("/console/", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.text == plain.text
    assert plain.headers["vary"] == "Accept-Encoding"


def test_it_can_live_under_another_prefix_and_is_not_in_the_api_schema() -> None:
    app = FastAPI()
    app.include_router(console_router(prefix="/ui"))
    client = TestClient(app)
    assert client.get("/ui/").status_code == 200
    assert app.openapi()["paths"] == {}


def test_the_page_has_no_inline_script_style_or_handler(client: TestClient) -> None:
    text = page(client).text
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", text) == []
    assert "<style" not in text
    assert re.findall(r"\s(?:on\w+|style)=", text) == []
    assert "{assets}" not in text


def test_the_code_never_turns_text_into_markup_or_code() -> None:
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser")
    for name, text in sources(".js").items():
        assert forbidden.findall(text) == [], name


def test_the_files_name_no_other_host() -> None:
    for name, text in sources(".js", ".css", ".html").items():
        hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"www.w3.org"}
        assert hosts == set(), name


def test_no_file_is_long() -> None:
    assert {name: text.count("\n") for name, text in sources(".js", ".css").items() if text.count("\n") > 350} == {}
