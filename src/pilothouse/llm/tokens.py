"""Sizes in tokens, near enough to cut history by."""

import re
from math import ceil

from pydantic_ai.models import Model

__all__ = ["estimate_image_tokens", "estimate_pdf_tokens", "estimate_tokens", "window_of"]

_DEFAULT_WINDOW = 128_000
_CHARACTERS_PER_TOKEN = 4
# Text longer than this is counted by so many samples: the work must not grow with it.
_LONG = 40_000
_SAMPLES = 10
# Scripts of which tokenizers make about one token a character: kana, CJK, Hangul, and what lies beyond the BMP.
_DENSE = re.compile(
    "[\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00010000-\U0010ffff]"
)
# Images, Anthropic: a token for 750 pixels, of an image that was made smaller if its long edge is over 1,568 pixels or
# it has more than 1,600 tokens. https://docs.anthropic.com/en/docs/build-with-claude/vision
_MOST_IMAGE_TOKENS = 1_600
_LONG_EDGE = 1_568
_PIXELS_PER_TOKEN = 750
# Images, OpenAI: made to fit 2,048 pixels square, then 768 pixels on the short edge; 85 tokens and 170 for each tile of
# 512 pixels square. https://platform.openai.com/docs/guides/images-vision
_SQUARE, _SHORT_EDGE, _TILE = 2_048, 768, 512
# Both read a page of a PDF as text (1,500 to 3,000 tokens, says Anthropic) and as an image.
_PAGE_TOKENS = 3_000
_PAGE_BYTES = 50_000
# Other scripts than Latin take about two characters a token.
_MIDDLE = re.compile("[\u0370-\u10ff\u1200-\u1fff]")


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a quarter of its characters, more for scripts that are written denser.

    An estimate of ours, not a tokenizer: for English prose within some 15 % of what providers count.
    """
    if text.isascii():
        return ceil(len(text) / _CHARACTERS_PER_TOKEN)
    if len(text) > _LONG:
        step = len(text) // _SAMPLES
        sample = "".join(text[at : at + _LONG // _SAMPLES] for at in range(0, step * _SAMPLES, step))
        return ceil(estimate_tokens(sample) * len(text) / len(sample))
    dense = len(_DENSE.findall(text))
    middle = len(_MIDDLE.findall(text))
    return dense + ceil(middle / 2) + ceil((len(text) - dense - middle) / _CHARACTERS_PER_TOKEN)


def estimate_image_tokens(size: tuple[int, int] | None) -> int:
    """About how many tokens an image has: the larger of what Anthropic and OpenAI count.

    Args:
        size: width and height in pixels; None if they are not known: then as many as an image can have.
    """
    if size is None:
        return _MOST_IMAGE_TOKENS
    long, short = max(size), min(size)
    shrink = min(1.0, _LONG_EDGE / long)
    pixels = min(_MOST_IMAGE_TOKENS, ceil(long * short * shrink * shrink / _PIXELS_PER_TOKEN))
    shrink = min(1.0, _SQUARE / long)
    shrink *= min(1.0, _SHORT_EDGE / (short * shrink))
    tiles = ceil(long * shrink / _TILE) * ceil(short * shrink / _TILE)
    return max(pixels, 85 + 170 * tiles)


def estimate_pdf_tokens(pages: int, size_bytes: int) -> int:
    """About how many tokens a PDF has: 3,000 a page, text and image of it.

    Args:
        pages: its pages; 0 if they are not known: then one for each 50 KB.
        size_bytes: its size.
    """
    return _PAGE_TOKENS * (pages or ceil(size_bytes / _PAGE_BYTES))


def window_of(model: Model) -> int:
    """The model's context window in tokens, as its profile or genai-prices record it.

    128,000 where neither knows the model: that of most hosted models since 2024. It is too much for many small local
    models; set `PILOTHOUSE_RUNS_HISTORY_TOKENS` for those.
    """
    return model.context_window or _DEFAULT_WINDOW
