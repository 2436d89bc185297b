import re
import shutil
from enum import StrEnum
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Header
from playwright.async_api import async_playwright, expect
from pydantic import BaseModel, Field

from pilothouse.errors import NotFound
from pilothouse.http.docs import install_docs
from pilothouse.http.middleware import add_middleware
from pilothouse.http.problems import install_problem_handlers, problem_responses
from pilothouse.http.sse import EventStreamResponse
from pilothouse.settings import load_settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tone(StrEnum):
    warm = "warm"
    plain = "plain"


class Node(BaseModel):
    name: str = Field(examples=["root"], description="A name.")
    children: list["Node"] = []


class Message(BaseModel):
    message: str = Field(max_length=100, examples=["Where is order 1042?"])
    tone: Tone = Tone.warm
    tree: Node | None = None


def make_app(**options) -> FastAPI:
    app = FastAPI(title="Pilot <house>", **options)
    install_problem_handlers(app)
    add_middleware(app, load_settings(None))
    install_docs(app)

    @app.post("/v1/chat", tags=["chat"], responses=problem_responses(409))
    async def chat(
        body: Message, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
    ) -> dict[str, str]:
        """Answer a message."""
        return {"heard": body.message, "token": authorization or "none"}

    @app.get("/v1/runs/{run_id}", tags=["runs"], responses=problem_responses(404))
    async def run(run_id: str, limit: int = 20) -> str:
        raise NotFound(f"There is no run {run_id} ({limit}).")

    @app.get("/v1/events", tags=["runs"])
    async def events() -> EventStreamResponse:
        async def source():
            yield b"data: one\n\n"

        return EventStreamResponse(source(), heartbeat_seconds=15)

    return app


@pytest.fixture
async def client():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
        yield client


async def test_the_page_names_no_other_host_and_has_nothing_inline(client):
    page = (await client.get("/docs")).text
    assert "Pilot &lt;house&gt; API" in page
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {asset.split("?")[0] for asset in assets} == {"data:,", "docs/docs.css", "docs/docs.js", "openapi.json"}
    assert "{{" not in page
    assert not re.search(r"<style|style=|<script>|\son\w+=", page)
    for asset in assets[1:]:
        response = await client.get("/" + asset)
        assert response.status_code == 200
        assert not re.search(r"https?://", response.text) or asset == "openapi.json"


async def test_fastapis_own_pages_are_gone(client):
    assert "swagger" not in (await client.get("/docs")).text
    assert (await client.get("/redoc")).status_code == 404
    assert (await client.get("/docs/oauth2-redirect")).status_code == 404
    assert "/docs" not in (await client.get("/openapi.json")).json()["paths"]


async def test_the_document_is_encoded_once_and_names_the_prefix_it_is_served_under(monkeypatch):
    app = make_app()
    host = FastAPI()
    host.mount("/ai", app)
    asked: list[int] = []
    document = app.openapi

    def counted() -> dict[str, Any]:
        asked.append(1)
        return document()

    monkeypatch.setattr(app, "openapi", counted)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://test") as client:
        first, again = [await client.get("/ai/openapi.json") for _ in range(2)]
    assert first.json()["servers"] == [{"url": "/ai"}]
    assert first.headers["content-type"] == "application/json"
    assert again.content == first.content
    assert len(asked) == 1


async def test_an_app_without_openapi_has_no_docs():
    app = make_app(openapi_url=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as bare:
        assert (await bare.get("/docs")).status_code == 404


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found")
async def test_the_reference_works_in_a_browser_under_the_strict_policy(serve):
    server = await serve(make_app())
    origin = f"http://127.0.0.1:{server.port}"
    trouble, hosts = [], set()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on(
            "console", lambda message: trouble.append(message.text) if message.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        await page.goto(f"{origin}/docs")
        await expect(page.locator("details.operation")).to_have_count(3)

        chat = page.locator("#post-v1-chat")
        await chat.locator("> summary").click()
        await expect(chat).to_contain_text("length ≤ 100")
        await expect(chat).to_contain_text("application/problem+json")
        await page.fill("#token", "secret-1")
        await chat.get_by_text("Try it").click()
        await expect(chat.locator("textarea")).to_have_value(re.compile("Where is order 1042"))
        await chat.get_by_role("button", name="Send").click()
        await expect(chat.locator("form pre").last).to_contain_text('"token": "Bearer secret-1"')
        await expect(chat.locator("form")).to_contain_text("200 OK")
        assert "secret-1" not in await chat.locator("form pre").first.inner_text()

        runs = page.locator("#get-v1-runs-run-id-")
        await runs.locator("> summary").click()
        await runs.get_by_text("Try it").click()
        await runs.locator("input[name=run_id]").fill("a/b é")
        before = len(trouble)
        await runs.get_by_role("button", name="Send").click()
        await expect(runs.locator("form")).to_contain_text("404")
        del trouble[before:]  # the browser reports the 404 itself

        await page.fill("#filter", "events")
        await expect(page.locator("details.operation:visible")).to_have_count(1)
        events = page.locator("#get-v1-events")
        await events.locator("> summary").click()
        await events.get_by_text("Try it").click()
        await events.get_by_role("button", name="Send").click()
        await expect(events.locator("form pre").last).to_contain_text("data: one")
        await browser.close()
    assert trouble == []
    assert hosts == {origin.removeprefix("http://")}
