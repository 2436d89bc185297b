"""Takes the console's screenshots: `python -m tests.console.screenshots FOLDER [URL TOKEN]`.

Without a URL it starts the fake server. With the address and token `pilothouse demo` prints, it talks to that.
"""

import asyncio
import sys
from pathlib import Path
from urllib.parse import quote

from playwright.async_api import Browser, Page, async_playwright, expect
from tests.console.conftest import ARGS, CHROMIUM
from tests.console.fake_server import FakeServer

SIZES = {"wide": (1280, 800), "phone": (390, 844)}
FAKE = [
    ["hello: plan a passage from Cuxhaven to Helgoland"],
    ["fail: please summarise the whole archive"],
    ["hello, what can you do for me?", "tools: where is order 1042, and will the weather delay it?"],
]
DEMO = [
    ["Tell me something long"],
    ["Refund €12.50 of order 1042"],
    ["Track 1043"],
    ["Show my orders as a table", "Where are orders 1039 and 1042?"],
]


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden(timeout=60_000)


async def sign_in(page: Page, url: str, token: str) -> None:
    await page.goto("about:blank")
    await page.goto(f"{url}/console/#token={quote(token)}")
    await page.get_by_role("button", name="Sign in as").click()


async def prepare(page: Page, url: str, token: str, talks: list[list[str]]) -> str:
    """Fills the server with something to look at; returns the address of the last conversation."""
    await sign_in(page, url, token)
    for talk in talks:
        await page.get_by_role("link", name="New chat").click()
        await expect(page.get_by_role("heading", name="New chat")).to_be_visible()
        for message in talk:
            await ask(page, message)
    return page.url


async def shoot(browser: Browser, url: str, token: str, folder: Path, talks: list[list[str]]) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    best = await prepare(page, url, token, talks)
    await page.close()
    for scheme in ("light", "dark"):
        for name, (width, height) in SIZES.items():
            context = await browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                device_scale_factor=1.5,
                reduced_motion="reduce",
            )
            page = await context.new_page()

            async def save(what: str, page: Page = page, ending: str = f"{name}-{scheme}") -> None:
                await page.mouse.move(0, 0)
                # Answers smoothly drawn and images decoded: two quiet frames.
                await page.evaluate(
                    "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
                )
                await page.screenshot(path=folder / f"{what}-{ending}.png")

            await page.goto(f"{url}/console/")
            await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
            await save("signin")
            await page.goto(f"{url}/console/#token={quote(token)}")
            await expect(page.get_by_role("heading", name="Sign in with this link?")).to_be_visible()
            await save("link")
            await sign_in(page, url, token)
            await expect(page.get_by_label("Message", exact=True)).to_be_visible()
            await save("new")
            await page.goto(best)
            await expect(page.get_by_role("link", name="Details").last).to_be_visible()
            await save("chat")
            await page.locator("details.tool summary").first.click()
            await page.locator("details.tool").first.scroll_into_view_if_needed()
            await save("chat-tool")
            await page.get_by_role("link", name="Details").last.click()
            await expect(page.locator(".step-row").first).to_be_visible()
            await save("run")
            await page.locator(".step-row summary").nth(1).click()
            await save("run-open")
            for room in ("conversations", "runs"):
                await page.goto(f"{url}/console/#/{room}")
                await expect(page.locator(".row").first).to_be_visible()
                await save(room)
            if name == "phone":
                await page.get_by_role("button", name="Menu").click()
                await save("drawer")
            await context.close()


async def main(folder: Path, url: str | None, token: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        if url:
            await shoot(browser, url, token, folder, DEMO)
        else:
            with FakeServer(pace=0.02, agents=2) as server:
                await shoot(browser, server.url, server.token, folder, FAKE)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *(sys.argv[2:4] or (None, ""))))
