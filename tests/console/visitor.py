"""A person at the console: what they do, what they see, and what their page did that it must not."""

import re
from typing import Any
from urllib.parse import quote

from playwright.async_api import ConsoleMessage, Locator, Page, Request, expect

REFUSED = re.compile(r"Failed to load resource: (the server responded with a status of 4|net::ERR_)")


class Visitor:
    """Drives one page and keeps its errors, policy violations and foreign requests."""

    def __init__(self, page: Page, server: Any) -> None:
        self.page = page
        self.server = server
        self._faults: list[str] = []
        page.on("pageerror", lambda error: self._faults.append(f"error: {error}"))
        page.on("console", self._heard)
        page.on("request", self._asked)

    def faults(self) -> list[str]:
        """Uncaught errors, console errors (refusals of the API apart) and requests to other hosts."""
        return self._faults

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not REFUSED.match(message.text):
            self._faults.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.server.url, "data:", "blob:")):
            self._faults.append(f"request: {request.url}")

    async def open(self, place: str = "") -> None:
        await self.page.goto(f"{self.server.url}/console/{place}")

    async def open_link(self) -> None:
        """As `pilothouse demo` prints it; one click signs in."""
        await self.open(f"#token={quote(self.server.token)}")
        await self.button(f"Sign in as {self.server.subject}").click()
        await expect(self.box).to_be_visible()

    @property
    def box(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    @property
    def answers(self) -> Locator:
        return self.page.get_by_role("article", name="Answer")

    @property
    def answer(self) -> Locator:
        return self.answers.last

    @property
    def stop(self) -> Locator:
        return self.page.get_by_role("button", name="Stop", exact=True)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True)

    def tool(self, name: str) -> Locator:
        return self.page.locator("details.tool").filter(has=self.page.get_by_text(name, exact=True))

    async def say(self, text: str) -> None:
        await self.box.fill(text)
        await self.page.keyboard.press("Enter")

    async def ask(self, text: str) -> None:
        """Says something and waits for the end of the answer."""
        before = await self.answers.count()
        await self.say(text)
        await expect(self.answers).to_have_count(before + 1)
        await self.at_rest()

    async def at_rest(self) -> None:
        await expect(self.stop).to_be_hidden()
        await expect(self.answer.get_by_role("link", name="Details")).to_be_visible()

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
