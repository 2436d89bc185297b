import asyncio

import pytest
from playwright.async_api import expect
from tests.console.scripts import LONG_WORD, NASTY
from tests.console.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_text_of_a_model_never_becomes_markup_or_code(visitor: Visitor) -> None:
    await visitor.ask("nasty")
    await visitor.page.reload()
    await visitor.at_rest()
    prose = visitor.answer.locator(".prose")
    assert await prose.locator("script, img, iframe, style, object, embed, form, [onerror], [style]").count() == 0
    assert await visitor.page.evaluate("window.pwned") is None
    for text in (
        "<script>window.pwned = 1</script>",
        'onerror="window.pwned = 2"',
        "<b>x</b>",
        LONG_WORD,
        "مرحبا بالعالم",
        "👩🏽‍🚀",
    ):
        await expect(prose).to_contain_text(text)


async def test_links_of_a_model_lead_to_the_web_only_and_take_nothing_along(visitor: Visitor) -> None:
    await visitor.ask("nasty")
    links = visitor.answer.locator(".prose a")
    found = await links.evaluate_all("nodes => nodes.map(n => [n.getAttribute('href'), n.rel, n.target])")
    addresses = ["https://example.com/a?b=1", "https://evil.example/p.gif", "https://evil.example"]
    assert found == [[address, "noopener noreferrer", "_blank"] for address in addresses]


async def test_markdown_is_drawn_as_what_it_says(visitor: Visitor) -> None:
    await visitor.ask("nasty")
    prose = visitor.answer.locator(".prose")
    for selector, text in (
        ("strong", "bold"),
        ("em", "italic"),
        ("s", "old"),
        ("p code", "code"),
        ("ul ul ol li", "deep"),
    ):
        await expect(prose.locator(selector)).to_have_text(text)
    assert await prose.locator("table td").all_inner_texts() == ["<b>x</b>", "1", "y | z", "2"]
    await expect(prose.locator("blockquote")).to_contain_text("quoted <iframe")
    await expect(prose.locator("pre")).to_have_text("<script>window.pwned = 5</script>")


async def test_a_text_that_grew_is_drawn_like_one_that_came_whole(visitor: Visitor) -> None:
    script = """async (text) => {
        const base = document.querySelector('script[type=module]').src.replace('app.js', 'markdown/markdown.js');
        const { GrowingMarkdown, markdown } = await import(base);
        const holder = document.createElement('div');
        holder.append(...markdown(text));
        const differences = [];
        for (const size of [1, 2, 7, 31]) {
            const blocks = [];
            const growing = new GrowingMarkdown((block) => blocks.push(block));
            for (let at = 0; at < text.length; at += size) growing.set(text.slice(0, at + size));
            growing.set(text, true);
            if (growing.element.innerHTML !== holder.innerHTML) differences.push(size);
            if (blocks.length !== holder.children.length) differences.push(`${size}: ${blocks.length} blocks told`);
        }
        return differences;
    }"""
    more = (
        "1. a\n2. b\n\n   still b\n3. c\n\n# Title\ntext\n#tag\n\n---\n"
        "- [x] done\n- [ ] open\r\n\tcode\n~~~\nnever closed\n\n- x"
    )
    assert await visitor.page.evaluate(script, f"{NASTY}\n{more}") == []


async def test_hostile_markdown_does_not_hang_the_page(visitor: Visitor) -> None:
    script = """async (texts) => {
        const base = document.querySelector('script[type=module]').src.replace('app.js', 'markdown/markdown.js');
        const { markdown } = await import(base);
        const slow = [];
        for (const text of texts) {
            const began = performance.now();
            markdown(text);
            if (performance.now() - began > 1500) slow.push([text.slice(0, 20), performance.now() - began]);
        }
        return slow;
    }"""
    size = 20_000
    openers = ("*a ", "**a ", "***a ", "_a", "~~a", "`", "``a`", "[", "![](", "[a](", "((", "<", "https://")
    parts = (*openers, "> ", "- ", "1. ", "# ", "|a", "\\")
    texts = [part * (size // len(part)) for part in parts]
    texts += [
        "\n".join("  " * n + "- x" for n in range(400)),
        ">" * size,
        "|a" * 200 + "\n" + "|-" * 200 + "\n" + "|b" * size,
    ]
    assert await visitor.page.evaluate(script, texts) == []


NASTY_PIECES = (
    *(
        "` ",
        "`a",
        "``a`",
        "```\n",
        "~~~ ",
        "*a ",
        "**a ",
        "***a ",
        "*a* ",
        "_a",
        "~~a",
        "[",
        "[]",
        "[a](",
        "![](",
        "(",
        ")",
        "()",
    ),
    *(
        "[a](x ",
        "<",
        "<a",
        "<https://",
        "https://",
        "https://[",
        "https://a...",
        "https://a)",
        "> ",
        "- ",
        "-",
        "1. ",
        "# ",
        "#",
    ),
    *(
        "|",
        "|-",
        "|a\n|-\n",
        "a|\n",
        "\\",
        "\\\n",
        " ",
        "\t",
        "\n",
        "\r",
        "a\n",
        "a\n\n",
        "- a\n",
        "  - a\n",
        "> a\n",
        "=",
        "&",
        "é",
    ),
)
NASTY_WHOLES = """[
    '` ' + 'x'.repeat(n),                                   // a code span that begins with a space
    '` ' + 'x'.repeat(n) + '`',
    '# a' + ' '.repeat(n) + 'b', '#' + ' '.repeat(n) + 'b', '# ' + 'a #'.repeat(n / 3) + 'b',
    '```' + ' '.repeat(n) + '`', 'a|b\\n-' + ' '.repeat(n) + 'x', 'a|b\\n-|' + ' '.repeat(n) + '-x',
    '[a](x' + ' '.repeat(n) + 'y)', ('[a](x' + ' '.repeat(4000) + 'y)').repeat(n / 4008),
    Array.from({length: 1400}, (_, k) => '`'.repeat(k + 1)).join(' '),
    '|a'.repeat(2000) + '\\n' + '|-'.repeat(2000) + '\\n' + 'b\\n'.repeat(n / 4),
    '|a'.repeat(90) + '\\n' + '|-'.repeat(90) + '\\n' + 'b\\n'.repeat(n / 4),
    'https://a' + '.'.repeat(n) + 'b', 'https://a' + ')'.repeat(n), '- '.repeat(n / 4) + 'x',
    Array.from({length: 1000}, (_, k) => ' '.repeat(k) + '- x').join('\\n'),
]"""


HOSTILE = """async ([pieces, n]) => {
    const base = document.querySelector('script[type=module]').src.replace('app.js', 'markdown/');
    const { GrowingMarkdown, markdown } = await import(base + 'markdown.js');
    const pieced = pieces.map((piece) => piece.repeat(n / piece.length));
    const texts = [...pieced, ...WHOLES];
    const draw = (text) => new GrowingMarkdown().set(text, true);
    // Nodes by the million cost a browser more than our reading of the text, which is what this is about.
    const node = () => ({ dataset: {}, setAttribute() {}, addEventListener() {}, append() {}, replaceChildren() {} });
    const read = (text) => {
        const own = ['createElement', 'createElementNS', 'createTextNode'];
        for (const name of own) document[name] = node;
        markdown(text);
        for (const name of own) delete document[name];
    };
    let at = 0;
    window.next = (whole) => {
        if (at === texts.length) return null;
        (whole ? read : draw)(texts[at]);
        return texts[at++].slice(0, 30);
    };
}"""


@pytest.mark.parametrize(("whole", "size"), [(True, 200_000), (False, 1_000_000)])
async def test_hostile_markdown_of_any_length_is_read_in_linear_time(visitor: Visitor, whole: bool, size: int) -> None:
    """Quadratic work on one of these takes many minutes. They are read one by one, so that a failure names its text."""
    await visitor.page.evaluate(HOSTILE.replace("WHOLES", NASTY_WHOLES), [list(NASTY_PIECES), size])
    told: list[str | None] = ["the first"]
    while told[-1] is not None:
        async with asyncio.timeout(60):
            told.append(await visitor.page.evaluate("(whole) => window.next(whole)", whole))
    assert len(told) > 60


ENDLESS_LINE = """async () => {
    const base = document.querySelector('script[type=module]').src.replace('app.js', 'sse.js');
    const { readEvents } = await import(base);
    const encoder = new TextEncoder();
    const line = ['data: "', ...Array(200000).fill('x'.repeat(20)), '"\\r', '\\n', '\\r\\n'];
    const pieces = ['id: 1-1\\r', '\\nevent: a\\r\\n', ...line, 'data: 1\\n', '\\ndata: 2\\r\\r'];
    const body = new ReadableStream({
        start(controller) {
            for (const piece of pieces) controller.enqueue(encoder.encode(piece));
            controller.close();
        },
    });
    const found = [];
    for await (const { id, type, data } of readEvents(body)) found.push([id, type, data.length ?? data]);
    return found;
}"""


async def test_a_stream_of_one_endless_line_is_read_in_linear_time(visitor: Visitor) -> None:
    async with asyncio.timeout(120):
        found = await visitor.page.evaluate(ENDLESS_LINE)
    assert found == [["1-1", "a", 4_000_000], [None, "message", 1], [None, "message", 2]]


async def test_a_stored_answer_of_a_megabyte_opens_cut_and_shows_more_on_request(visitor: Visitor) -> None:
    await visitor.ask("hello")
    (run,) = visitor.server.runs.values()
    long = "` " + "x" * 150_000 + "\n\n" + "word *and* `code` " * 50_000
    run.transcript[-1]["text"] = long
    run.record["steps"][-1].update(text=long, reasoning="r" * 500_000)
    await visitor.page.reload()
    await visitor.at_rest()
    prose = visitor.answer.locator(".prose")
    assert await prose.evaluate("node => node.textContent.length") < 50_000
    more = visitor.page.get_by_role("button", name="Show more")
    await more.click()
    await expect(prose.get_by_role("button")).to_contain_text("970,004")
    assert await prose.evaluate("node => node.textContent.length") > 75_000
    await visitor.answer.get_by_role("link", name="Details").click()
    await visitor.page.locator(".step-row summary").first.click()
    reasoning = visitor.page.locator(".reasoning-text")
    await visitor.page.get_by_role("button", name="Show more (480,000 characters left)").click()
    assert await reasoning.evaluate_all("nodes => nodes.map(n => n.textContent.length)") == [20_000, 20_000]
    await expect(visitor.page.get_by_role("button", name="Show more (460,000 characters left)")).to_be_visible()


async def test_the_page_asks_no_other_host_and_violates_no_policy(visitor: Visitor) -> None:
    await visitor.page.evaluate(
        """() => {
            window.broken = [];
            addEventListener('securitypolicyviolation', (event) => window.broken.push(event.violatedDirective));
        }"""
    )
    await visitor.ask("nasty")
    await visitor.ask("tools")
    await visitor.answer.get_by_role("link", name="Details").click()
    await expect(visitor.page.locator(".step-row")).to_have_count(4)
    for room in ("Runs", "Conversations"):
        await visitor.link(room).click()
        await expect(visitor.page.locator(".row").first).to_be_visible()
    assert await visitor.page.evaluate("window.broken") == []
    assert visitor.faults() == []


async def test_the_policy_would_stop_what_slips_through(visitor: Visitor) -> None:
    await visitor.page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.pwned = 1';
        document.body.append(script);
    }""")
    assert await visitor.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in fault for fault in visitor.faults())
    visitor.faults().clear()
