import json
from pathlib import Path

import pytest
from playwright.async_api import expect
from tests.console.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_conversations_can_be_found_renamed_exported_and_deleted(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.ask("hello first")
    await visitor.link("New chat").click()
    await visitor.ask("hello second")
    await visitor.link("Conversations").click()
    rows = page.locator(".row")
    await expect(rows).to_have_count(2)
    await page.get_by_label("Search by title").fill("FIRST")
    await expect(rows).to_have_count(1)

    await visitor.button("Rename").click()
    await page.get_by_label("Title", exact=True).fill("A better title")
    await page.keyboard.press("Enter")
    await page.get_by_label("Search by title").fill("better")
    await expect(rows).to_contain_text("A better title")
    await expect(page.get_by_role("complementary").get_by_text("A better title")).to_be_visible()

    async with page.expect_download() as download:
        await visitor.button("Export as JSON").click()
    saved = json.loads(Path(await (await download.value).path()).read_text())
    assert saved["conversation"]["title"] == "A better title"

    await visitor.button("Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(rows).to_have_count(1)
    await visitor.button("Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No conversation has that title.")).to_be_visible()
    assert [item["title"] for item in visitor.server.conversations.values()] == ["hello second"]


async def test_empty_rooms_say_what_will_be_there(visitor: Visitor) -> None:
    await visitor.link("Conversations").click()
    await expect(visitor.page.get_by_text("No conversations yet")).to_be_visible()
    await visitor.link("Runs").click()
    await expect(visitor.page.get_by_text("No runs yet")).to_be_visible()


async def test_a_run_shows_its_steps_to_scale_and_what_is_in_them(visitor: Visitor) -> None:
    await visitor.ask("tools")
    await visitor.answer.get_by_role("link", name="Details").click()
    rows = visitor.page.locator(".step-row")
    await expect(rows).to_have_count(4)
    await expect(visitor.page.locator(".facts-card")).to_contain_text("support @ 3")
    await expect(visitor.page.locator(".facts-card")).to_contain_text("Completed")
    ends = await visitor.page.locator(".bar").evaluate_all(
        "bars => bars.map(b => [b.getBoundingClientRect().left, b.getBoundingClientRect().right])"
    )
    assert all(left <= right for left, right in ends)
    assert [left for left, _ in ends] == sorted(left for left, _ in ends)
    await rows.nth(1).locator("summary").click()
    await expect(rows.nth(1)).to_contain_text('"order_id": "1042"')
    await rows.nth(2).locator("summary").click()
    await expect(rows.nth(2)).to_contain_text("timeout")
    await visitor.link("Open conversation").click()
    await expect(visitor.answer).to_contain_text("ships tomorrow")


async def test_a_run_page_is_live_and_can_stop_the_run(visitor: Visitor) -> None:
    await visitor.say("slow tool")
    await expect(visitor.tool("slow_search")).to_be_visible()
    await visitor.open("#/runs/run_0001")
    card = visitor.page.locator(".facts-card")
    await expect(card).to_contain_text("Running")
    await expect(visitor.page.locator(".step-row")).to_have_count(2)
    visitor.server.release()
    await expect(card).to_contain_text("Completed")
    await expect(visitor.page.locator(".step-row")).to_have_count(3)
    await visitor.open("#/chat")
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    await visitor.open("#/runs/run_0002")
    await visitor.button("Stop run").click()
    await expect(card).to_contain_text("Stopped")
    await expect(visitor.button("Stop run")).to_be_hidden()


async def test_runs_are_listed_by_state(visitor: Visitor) -> None:
    await visitor.ask("hello")
    await visitor.say("fail")
    await expect(visitor.answer.get_by_role("alert")).to_be_visible()
    await visitor.link("Runs").click()
    await expect(visitor.page.locator(".row")).to_have_count(2)
    await visitor.link("Failed").click()
    await expect(visitor.page.locator(".row")).to_have_count(1)
    await expect(visitor.page.locator(".row")).to_contain_text("The model is overloaded.")
    await visitor.link("Queued").click()
    await expect(visitor.page.get_by_text("Nothing here")).to_be_visible()


@pytest.mark.parametrize("place", ["#/chat/conv_nothing", "#/runs/run_nothing", "#/nowhere"])
async def test_what_is_not_there_is_said_with_a_way_back(visitor: Visitor, place: str) -> None:
    await visitor.open(place)
    await expect(visitor.page.get_by_role("heading", name="Not found")).to_be_visible()
    await visitor.link("Start a chat").click()
    await expect(visitor.box).to_be_visible()


@pytest.mark.parametrize("width", [360, 390, 768, 1280, 1920])
async def test_no_width_scrolls_sideways(visitor: Visitor, width: int) -> None:
    await visitor.ask("nasty")
    await visitor.ask("tools")
    run = await visitor.answer.get_by_role("link", name="Details").get_attribute("href")
    await visitor.page.set_viewport_size({"width": width, "height": 800})
    for summary in await visitor.answer.locator("details.tool summary").all():
        await summary.click()
    assert await visitor.overflow() == 0
    assert await visitor.page.locator(".scroller").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    for place, sign in ((run, ".step-row"), ("#/runs", ".row"), ("#/conversations", ".row")):
        await visitor.open(place or "")
        await expect(visitor.page.locator(sign).first).to_be_visible()
        assert await visitor.overflow() == 0, place
        assert await visitor.page.locator(".scroller").evaluate("node => node.scrollWidth - node.clientWidth") == 0, (
            place
        )


async def test_the_drawer_of_a_phone_opens_leads_and_closes(visitor: Visitor) -> None:
    await visitor.page.set_viewport_size({"width": 390, "height": 844})
    await expect(visitor.link("Runs")).to_be_hidden()
    await visitor.button("Menu").click()
    await expect(visitor.button("Close menu")).to_be_focused()
    await visitor.page.keyboard.press("Escape")
    await expect(visitor.link("Runs")).to_be_hidden()
    await expect(visitor.button("Menu")).to_be_focused()
    await visitor.button("Menu").click()
    await visitor.link("Runs").click()
    await expect(visitor.page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    await expect(visitor.button("Close menu")).to_be_hidden()


async def test_the_theme_follows_the_system_until_one_is_chosen(visitor: Visitor) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    await visitor.page.emulate_media(color_scheme="light")
    light = await visitor.page.evaluate(colour)
    await visitor.page.emulate_media(color_scheme="dark")
    dark = await visitor.page.evaluate(colour)
    assert light != dark
    await visitor.button("Theme: as the system").click()
    assert await visitor.page.evaluate(colour) == light
    await visitor.page.reload()
    await expect(visitor.button("Theme: light")).to_be_visible()
    assert await visitor.page.evaluate(colour) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_is_readable_in_both_themes(visitor: Visitor, scheme: str) -> None:
    await visitor.page.emulate_media(color_scheme=scheme)
    await visitor.ask("tools")
    await visitor.say("fail")
    await expect(visitor.answer.get_by_role("alert")).to_be_visible()
    script = (Path(__file__).parent / "contrast.js").read_text()
    assert await visitor.page.evaluate(script) == []
    await visitor.link("Runs").click()
    await expect(visitor.page.locator(".row").first).to_be_visible()
    assert await visitor.page.evaluate(script) == []
