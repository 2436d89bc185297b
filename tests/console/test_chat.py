import re

import pytest
from playwright.async_api import expect
from tests.console.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_an_answer_streams_with_its_tools_and_ends_with_its_cost(visitor: Visitor) -> None:
    await visitor.ask("tools please")
    order, weather = visitor.tool("order_lookup"), visitor.tool("depot_weather")
    await expect(order).to_contain_text("order_id: 1042")
    await expect(order).to_contain_text("12 ms")
    await expect(weather).to_contain_text("Failed")
    await order.locator("summary").click()
    await expect(order.get_by_text('"carrier": "DHL"')).to_be_visible()
    await weather.locator("summary").click()
    await expect(weather).to_contain_text("did not answer in time")
    await expect(visitor.answer.locator("table tbody tr")).to_have_count(3)
    await expect(visitor.answer.locator("pre code").last).to_contain_text("carrier.track")
    await expect(visitor.answer.locator(".reasoning").first).to_contain_text("Reasoning")
    await expect(visitor.answer.locator("footer")).to_contain_text(re.compile(r"620 in, \d+ out.*\$0\.000842"))
    assert "#/chat/conv_" in visitor.page.url


async def test_half_an_answer_is_shown_before_the_rest_exists(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half of the answer is here.")
    await expect(visitor.answer).not_to_contain_text("second half")
    await expect(visitor.stop).to_be_visible()
    visitor.server.release()
    await expect(visitor.answer).to_contain_text("And this is the second half.")
    await visitor.at_rest()


async def test_a_running_tool_shows_that_it_runs(visitor: Visitor) -> None:
    await visitor.say("slow tool")
    await expect(visitor.tool("slow_search")).to_have_attribute("data-state", "running")
    visitor.server.release()
    await expect(visitor.tool("slow_search")).to_have_attribute("data-state", "ok")
    await expect(visitor.answer).to_contain_text("Found three.")


async def test_stop_ends_the_answer_and_keeps_what_was_written(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    await visitor.stop.click()
    await expect(visitor.answer.get_by_text("Stopped.")).to_be_visible()
    await expect(visitor.answer).to_contain_text("The first half")
    await expect(visitor.stop).to_be_hidden()
    assert [run.record["state"] for run in visitor.server.runs.values()] == ["cancelled"]


async def test_a_reload_in_the_middle_continues_the_same_answer(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    await visitor.page.reload()
    await expect(visitor.answer).to_contain_text("The first half of the answer is here.")
    await expect(visitor.stop).to_be_visible()
    visitor.server.release()
    await expect(visitor.answer).to_contain_text("And this is the second half.")
    await expect(visitor.answers).to_have_count(1)
    await visitor.at_rest()
    assert len(visitor.server.runs) == 1
    assert await visitor.answer.get_by_text("The first half").count() == 1


async def test_a_lost_connection_resumes_after_the_last_event_without_repeating_text(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half of the answer is here.")
    visitor.server.drop_streams()
    await expect(visitor.answer.get_by_text("Reconnecting")).to_be_visible()
    visitor.server.release()
    await expect(visitor.answer).to_contain_text("And this is the second half.")
    await visitor.at_rest()
    assert await visitor.answer.get_by_text("The first half").count() == 1
    resumed = [headers for line, headers in visitor.server.requests if line.endswith("/events")]
    assert resumed
    assert all(headers["last-event-id"].startswith("1-") for headers in resumed)


async def test_text_of_a_step_that_begins_again_is_withdrawn(visitor: Visitor) -> None:
    await visitor.say("restart")
    await expect(visitor.answer.get_by_text("Thinking")).to_be_visible()
    await expect(visitor.answer).not_to_contain_text("This part is lost")
    visitor.server.release()
    await expect(visitor.answer).to_contain_text("This part is kept.")
    await expect(visitor.answer).not_to_contain_text("This part is lost")


async def test_a_busy_conversation_offers_to_wait(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    await visitor.say("hello again")
    await visitor.button("Wait for it").click()
    await expect(visitor.answer.get_by_text("Waiting for its turn")).to_be_visible()
    visitor.server.release()
    await expect(visitor.answers.first).to_contain_text("second half")
    await expect(visitor.answer).to_contain_text("offline model of the tests")
    await visitor.at_rest()


async def test_a_busy_conversation_offers_to_interrupt_or_to_take_the_message_back(visitor: Visitor) -> None:
    await visitor.say("wait")
    await expect(visitor.answer).to_contain_text("The first half")
    await visitor.say("hello again")
    await visitor.button("Take my message back").click()
    await expect(visitor.box).to_have_value("hello again")
    await expect(visitor.answers).to_have_count(1)
    await visitor.page.keyboard.press("Enter")
    await visitor.button("Interrupt it").click()
    await expect(visitor.answers.first).to_contain_text("Stopped.")
    await expect(visitor.answer).to_contain_text("offline model of the tests")


async def test_a_failed_run_says_why_and_can_be_tried_again(visitor: Visitor) -> None:
    await visitor.say("fail")
    await expect(visitor.answer.get_by_role("alert")).to_contain_text("The model is overloaded.")
    await visitor.button("Try again").click()
    await expect(visitor.answer.get_by_role("alert")).to_contain_text("The model is overloaded.")
    assert len(visitor.server.runs) == 2


async def test_a_call_that_needs_a_person_runs_when_allowed_and_not_when_declined(visitor: Visitor) -> None:
    for button, state in (("Allow", "ok"), ("Decline", "error")):
        await visitor.say("refund order 1039")
        card = visitor.answer.locator("details.tool")
        await expect(card).to_contain_text("1250")
        await visitor.page.reload()
        await visitor.button(button).click()
        await expect(card).to_have_attribute("data-state", state)
        await expect(visitor.answer).to_contain_text("Settled.")
        await visitor.at_rest()


async def test_the_reader_who_scrolls_up_stays_there_and_is_told_of_new_text(visitor: Visitor) -> None:
    await visitor.say("long gate")
    await expect(visitor.answer).to_contain_text("Paragraph 29")
    scroller = visitor.page.locator(".scroller")
    await scroller.evaluate("node => node.scrollTo(0, 100)")
    visitor.server.release()
    await expect(visitor.button("New text")).to_be_visible()
    await expect(visitor.answer).to_contain_text("Further paragraph 9.")
    assert await scroller.evaluate("node => node.scrollTop") == 100
    await visitor.button("New text").click()
    await expect(visitor.answer.get_by_text("Further paragraph 9.")).to_be_in_viewport()
    await expect(visitor.button("New text")).to_be_hidden()


async def test_a_long_answer_is_followed_to_its_end(visitor: Visitor) -> None:
    await visitor.ask("long")
    await expect(visitor.answer.locator("footer")).to_be_in_viewport()


async def test_a_message_over_the_limit_is_counted_and_not_sent(visitor: Visitor) -> None:
    await visitor.box.fill("x" * 8_999)
    await expect(visitor.page.locator(".count")).to_be_hidden()
    await visitor.box.fill("x" * 9_500)
    await expect(visitor.page.get_by_text("9,500 / 10,000")).to_be_visible()
    await visitor.box.fill("x" * 10_001)
    await expect(visitor.button("Send")).to_be_disabled()
    await visitor.page.keyboard.press("Enter")
    await expect(visitor.answers).to_have_count(0)


async def test_an_attachment_is_sent_and_one_too_large_is_refused_in_words(visitor: Visitor) -> None:
    files = visitor.page.locator("input[type=file]")
    await files.set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"fair winds"})
    await expect(visitor.page.get_by_text("notes.txt")).to_be_visible()
    await visitor.ask("hello with a file")
    await files.set_input_files({"name": "big.pdf", "mimeType": "application/pdf", "buffer": b"x" * 1_500_000})
    await expect(visitor.page.get_by_text("big.pdf")).to_be_visible()
    await visitor.say("hello with a big file")
    await expect(visitor.page.get_by_role("alert")).to_contain_text("larger than 1 MB")
    await visitor.button("Edit message").click()
    await expect(visitor.box).to_have_value("hello with a big file")
    await visitor.button("Remove big.pdf").click()
    await expect(visitor.page.get_by_text("big.pdf")).to_be_hidden()


async def test_the_chosen_agent_answers_in_a_new_chat(visitor: Visitor) -> None:
    await visitor.page.get_by_label("Agent").select_option("researcher")
    await visitor.ask("hello")
    assert [run.record["agent"] for run in visitor.server.runs.values()] == ["researcher"]
    await expect(visitor.page.get_by_label("Agent")).to_be_hidden()


async def test_a_past_conversation_looks_as_it_did(visitor: Visitor) -> None:
    await visitor.ask("tools please")
    live = await visitor.answer.locator(".prose").last.inner_html()
    await visitor.page.reload()
    await visitor.at_rest()
    assert await visitor.answer.locator(".prose").last.inner_html() == live
    await expect(visitor.tool("depot_weather")).to_have_attribute("data-state", "error")
    await expect(visitor.answer.locator("footer")).to_contain_text("$0.000842")


async def test_the_server_going_away_is_said_and_a_message_is_sent_once_it_is_back(visitor: Visitor) -> None:
    await visitor.ask("hello")
    await visitor.page.context.set_offline(True)
    await expect(visitor.page.get_by_text("No connection to the server")).to_be_visible()
    await visitor.say("hello from the dark")
    await visitor.page.context.set_offline(False)
    await expect(visitor.answer).to_contain_text("offline model of the tests")
    await expect(visitor.page.get_by_text("No connection to the server")).to_be_hidden()
    assert len(visitor.server.runs) == 2
