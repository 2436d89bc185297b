import pytest
from playwright.async_api import expect
from tests.console.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

FOCUS = """(() => {
    const at = document.activeElement;
    return at === document.body ? '' : at.getAttribute('aria-label') || at.textContent.trim() || at.id;
})()"""
FOCUS_IS_SEEN = """() => {
    const at = document.activeElement;
    const style = getComputedStyle(at);
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
    const box = at.closest('.composer');
    return at === document.body || ring || Boolean(box && getComputedStyle(box).boxShadow !== 'none');
}"""
LISTEN = """() => {
    window.said = [];
    const note = (change) => change.addedNodes.forEach((node) => window.said.push(node.textContent));
    new MutationObserver((list) => list.forEach(note))
        .observe(document.getElementById('announcer'), { childList: true });
}"""


async def tab_to(visitor: Visitor, name: str, most: int = 40) -> None:
    for _ in range(most):
        await visitor.page.keyboard.press("Tab")
        if name in str(await visitor.page.evaluate(FOCUS)):
            return
    raise AssertionError(f"Tab never reached {name}")


async def test_everything_can_be_done_with_the_keyboard_alone(stranger: Visitor) -> None:
    keys = stranger.page.keyboard
    await stranger.open()
    await expect(stranger.page.get_by_label("Token")).to_be_focused()
    await keys.insert_text(stranger.server.token)
    await keys.press("Enter")
    await expect(stranger.box).to_be_focused()
    await keys.type("line one")
    await keys.press("Shift+Enter")
    await keys.type("line two")
    await expect(stranger.box).to_have_value("line one\nline two")
    await keys.press("ControlOrMeta+a")
    await keys.type("tools")
    await keys.press("Enter")
    await stranger.at_rest()
    await expect(stranger.box).to_be_focused()

    await keys.press("Shift+Tab")
    await tab_to_back(stranger, "Details")
    await keys.press("Enter")
    await expect(stranger.page.locator(".step-row")).to_have_count(4)
    await tab_to(stranger, "order_lookup")
    await keys.press("Enter")
    await expect(stranger.page.locator(".step-row").nth(1)).to_contain_text("Arguments")

    await stranger.page.evaluate("document.activeElement.blur()")
    await tab_to(stranger, "New chat")
    await keys.press("Enter")
    await expect(stranger.box).to_be_focused()


async def tab_to_back(visitor: Visitor, name: str, most: int = 40) -> None:
    for _ in range(most):
        if name in str(await visitor.page.evaluate(FOCUS)):
            return
        await visitor.page.keyboard.press("Shift+Tab")
    raise AssertionError(f"Shift+Tab never reached {name}")


async def test_escape_stops_an_answer(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    await visitor.page.keyboard.press("Escape")
    await expect(visitor.answer.get_by_text("Stopped.")).to_be_visible()


async def test_focus_is_visible_wherever_it_goes(visitor: Visitor) -> None:
    await visitor.ask("tools")
    for _ in range(30):
        await visitor.page.keyboard.press("Tab")
        assert await visitor.page.evaluate(FOCUS_IS_SEEN), await visitor.page.evaluate(FOCUS)


async def test_finished_paragraphs_are_announced_and_not_every_token(visitor: Visitor) -> None:
    await visitor.page.evaluate(LISTEN)
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    visitor.server.release()
    announcer = visitor.page.locator("#announcer")
    await expect(announcer).to_contain_text("The answer is complete.")
    assert await visitor.page.evaluate("window.said") == [
        "The first half of the answer is here.",
        "And this is the second half.",
        "The answer is complete.",
    ]


async def test_with_reduced_motion_text_comes_without_animation(visitor: Visitor) -> None:
    await visitor.page.emulate_media(reduced_motion="reduce")
    await visitor.ask("tools")
    await expect(visitor.answer).to_contain_text("Anything else you would like to know")
    assert await visitor.page.evaluate("document.getAnimations().filter(a => a.playState === 'running').length") == 0
