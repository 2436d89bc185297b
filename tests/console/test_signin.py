import pytest
from playwright.async_api import Route, expect
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


async def test_a_link_signs_nobody_in_before_they_agree(stranger: Visitor) -> None:
    await stranger.open(f"#token={stranger.server.token}")
    await expect(stranger.page.get_by_role("heading", name="Sign in with this link?")).to_be_visible()
    await expect(stranger.page.get_by_role("main")).to_contain_text("ada@example.com of tenant default")
    assert "token" not in stranger.page.url
    assert await stranger.page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert {path for path, _ in stranger.server.requests} == {"GET /v1/me"}
    await stranger.button("Do not sign in").click()
    await expect(stranger.page.get_by_label("Token")).to_be_focused()
    assert await stranger.page.evaluate("sessionStorage.length + localStorage.length") == 0


async def test_a_link_signs_in_with_one_key_press(stranger: Visitor) -> None:
    await stranger.open(f"#token={stranger.server.token}")
    await expect(stranger.button("Sign in as ada@example.com")).to_be_focused()
    await stranger.page.keyboard.press("Enter")
    await expect(stranger.box).to_be_visible()


async def test_the_token_leaves_the_address_bar_before_anything_is_asked(stranger: Visitor) -> None:
    seen: list[str] = []

    async def look(route: Route) -> None:
        seen.append(stranger.page.url)
        await route.continue_()

    await stranger.page.route("**/v1/me", look)
    await stranger.open(f"#token={stranger.server.token}")
    await expect(stranger.page.get_by_role("heading", name="Sign in with this link?")).to_be_visible()
    assert seen
    assert not any("token" in url for url in seen)


async def test_a_link_to_another_account_asks_who_is_signed_in_and_can_be_declined(visitor: Visitor) -> None:
    visitor.server.accepted.add("Bearer of-mallory")
    visitor.server.subjects["Bearer of-mallory"] = "mallory \u202egnp.exe"
    await visitor.page.evaluate("location.hash = '#token=of-mallory'")
    await expect(visitor.page.get_by_role("heading", name="Sign in with this link?")).to_be_visible()
    assert "token" not in visitor.page.url
    await visitor.button("Stay signed in as ada@example.com").click()
    await expect(visitor.box).to_be_visible()
    assert await visitor.page.evaluate("sessionStorage.getItem('pilothouse.token')") == visitor.server.token

    await visitor.page.evaluate("location.hash = '#token=of-mallory'")
    await visitor.page.get_by_role("button", name="Sign in as mallory").click()
    await expect(visitor.page.locator(".who-name")).to_contain_text("mallory")


async def test_a_link_to_ones_own_account_goes_on_at_once(visitor: Visitor) -> None:
    visitor.server.accepted.add("Bearer newer")
    await visitor.page.evaluate("location.hash = '#token=newer'")
    await expect(visitor.box).to_be_visible()
    await visitor.page.wait_for_function("sessionStorage.getItem('pilothouse.token') === 'newer'")


async def test_a_link_with_a_bad_token_says_so_to_whom_is_not_signed_in(stranger: Visitor) -> None:
    await stranger.open("#token=wrong")
    await expect(stranger.page.get_by_text("does not accept the token of this link")).to_be_visible()
    await expect(stranger.page.get_by_label("Token")).to_be_focused()
    assert "token" not in stranger.page.url


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
