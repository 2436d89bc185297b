import pytest

from pilothouse.llm.tokens import estimate_image_tokens, estimate_pdf_tokens, estimate_tokens


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("The quick brown fox jumps over the lazy dog.", 9, 13),
        ("素早い茶色の狐が怠け者の犬を飛び越える。", 15, 25),
        ("Быстрая коричневая лиса прыгает", 10, 18),
        ("😀" * 10, 10, 30),
        ("Grüße aus Köln", 3, 6),
    ],
)
def test_an_estimate_is_near_what_tokenizers_count(text, least, most):
    assert least <= estimate_tokens(text) <= most


def test_a_longer_text_never_has_fewer_tokens():
    text = "mixed 混合 текст 😀 " * 5
    sizes = [estimate_tokens(text[:end]) for end in range(len(text))]
    assert sizes == sorted(sizes)


def test_a_long_text_is_estimated_by_samples_and_nearly_as_well():
    for piece in ("日本語のテキスト", "Grüße, 世界! ", "Привет, мир. "):
        text = piece * 20_000
        exact = sum(estimate_tokens(text[at : at + 10_000]) for at in range(0, len(text), 10_000))
        assert estimate_tokens(text) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((200, 200), 255),  # one tile of OpenAI's, 54 tokens of Anthropic's
        ((1_024, 1_024), 1_399),  # 765 by tiles
        ((1_568, 1_568), 1_600),
        ((4_096, 8_192), 1_600),
        ((2_048, 768), 1_445),  # eight tiles
        ((1, 1), 255),
        ((100_000, 1), 765),
        (None, 1_600),
    ],
)
def test_an_image_counts_what_the_dearer_of_two_providers_counts(size, tokens):
    assert estimate_image_tokens(size) == tokens


def test_a_pdf_counts_its_pages_or_else_its_bytes():
    assert estimate_pdf_tokens(3, 10_000_000) == 9_000
    assert estimate_pdf_tokens(0, 120_000) == 9_000
    assert estimate_pdf_tokens(0, 1) == 3_000
