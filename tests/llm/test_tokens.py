import pytest

from pilothouse.llm.tokens import estimate_tokens


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
