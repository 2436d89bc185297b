from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

from pilothouse.usage.prices import cost_nano_usd, format_usd


def answered(model="gpt-4o-mini", provider="openai", *, url=None, **usage):
    return ModelResponse(
        parts=[TextPart("x")], usage=RequestUsage(**usage), model_name=model, provider_name=provider, provider_url=url
    )


def test_a_known_model_costs_what_the_price_list_says():
    response = answered(input_tokens=1000, output_tokens=100)
    assert cost_nano_usd(response) == int(response.cost().total_price * 10**9)
    assert cost_nano_usd(response) == 1000 * 150 + 100 * 600


def test_cached_input_costs_less():
    whole = cost_nano_usd(answered(input_tokens=1000, output_tokens=1))
    cached = cost_nano_usd(answered(input_tokens=1000, output_tokens=1, cache_read_tokens=1000))
    assert 0 < cached < whole


def test_a_fraction_of_a_nano_dollar_is_rounded_up():
    cost = cost_nano_usd(answered("gpt-5-nano", input_tokens=1, output_tokens=0, cache_read_tokens=1))
    exact = answered("gpt-5-nano", input_tokens=1, cache_read_tokens=1).cost().total_price * 10**9
    assert cost == -(-exact // 1)


def test_a_proxys_address_does_not_hide_the_price():
    url = "http://127.0.0.1:1234/v1/"
    assert cost_nano_usd(answered(url=url, input_tokens=10, output_tokens=1)) == 10 * 150 + 600


@pytest.mark.parametrize(
    "response",
    [
        answered("no-such-model", input_tokens=1),
        answered("gpt-4o-mini", "no-such-provider", input_tokens=1),
        answered(None, input_tokens=1),
        answered(),
        answered(input_tokens=1, output_tokens=1, unmeasured_requests=1),
        answered(input_tokens=1, cache_read_tokens=5),
    ],
    ids=["model", "provider", "no name", "no usage", "unmeasured", "impossible"],
)
def test_what_is_not_known_has_no_price(response):
    assert cost_nano_usd(response) is None


@pytest.mark.parametrize(
    ("nano", "text"),
    [(None, None), (0, "0"), (842_000, "0.000842"), (1, "0.000000001"), (2_500_000_000, "2.5"), (-1_000_000_000, "-1")],
)
def test_dollars_are_written_exactly(nano, text):
    assert format_usd(nano) == text


@given(st.integers(-(10**18), 10**18))
def test_any_amount_can_be_read_back(nano):
    assert Decimal(format_usd(nano)) * 10**9 == nano
