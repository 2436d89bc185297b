import pytest
from playwright.async_api import expect
from tests.console.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_a_link_signs_in_and_its_token_leaves_the_address_bar_and_the_history(stranger: Visitor) -> None:
    await stranger.open()
    await expect(stranger.button("Sign in")).to_be_visible()
    await stranger.open_link()
    assert "token" not in stranger.page.url
    await stranger.page.go_back()
    assert "token" not in stranger.page.url
    await stranger.page.go_forward()
    assert "token" not in stranger.page.url


async def test_the_token_stays_in_the_tab_unless_it_should_be_remembered(stranger: Visitor) -> None:
    await stranger.open()
    await stranger.page.get_by_label("Token").fill(stranger.server.token)
    await stranger.button("Sign in").click()
    await expect(stranger.box).to_be_visible()
    assert await stranger.page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    await stranger.button("Sign out").click()
    assert await stranger.page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]

    await stranger.page.get_by_label("Token").fill(stranger.server.token)
    await stranger.page.get_by_label("Remember on this device").check()
    await stranger.page.keyboard.press("Enter")
    await expect(stranger.box).to_be_visible()
    other = await stranger.page.context.new_page()
    await other.goto(f"{stranger.server.url}/console/")
    await expect(other.get_by_label("Message", exact=True)).to_be_visible()


async def test_a_wrong_token_is_said_clearly_and_nothing_is_kept(stranger: Visitor) -> None:
    await stranger.open()
    said = {"nonsense": "does not accept this token", "tökén ∞": "not a token"}
    for wrong, words in said.items():
        await stranger.page.get_by_label("Token").fill(wrong)
        await stranger.button("Sign in").click()
        await expect(stranger.page.get_by_role("alert")).to_contain_text(words)
    assert await stranger.page.evaluate("sessionStorage.length + localStorage.length") == 0


async def test_a_token_that_ends_leads_back_to_the_sign_in(visitor: Visitor) -> None:
    await visitor.page.evaluate("sessionStorage.setItem('pilothouse.token', 'revoked')")
    await visitor.link("Runs").click()
    await expect(visitor.page.get_by_text("Your sign-in is no longer valid")).to_be_visible()
    await expect(visitor.page.get_by_label("Token")).to_be_focused()


async def test_a_link_with_a_bad_token_does_not_sign_out(visitor: Visitor) -> None:
    await visitor.page.evaluate("location.hash = '#token=wrong'")
    await expect(visitor.page.get_by_text("still signed in as before")).to_be_visible()
    await expect(visitor.box).to_be_visible()
    assert "token" not in visitor.page.url


async def test_a_server_of_ones_own_that_asks_for_no_token_needs_no_sign_in(stranger: Visitor) -> None:
    stranger.server.accepted.add(None)
    await stranger.open()
    await stranger.ask("hello")
    await expect(stranger.answer).to_contain_text("offline model of the tests")
