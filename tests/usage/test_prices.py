from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

from pilothouse.usage.prices import _find, cost_nano_usd, format_usd


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


LISTED = [(provider, model) for provider in get_snapshot().providers for model in provider.models]
COUNTS = st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 3_000_000))
USAGES = st.fixed_dictionaries(
    {"input_tokens": COUNTS, "output_tokens": COUNTS},
    optional={
        "cache_read_tokens": COUNTS,
        "cache_write_tokens": COUNTS,
        "output_reasoning_tokens": COUNTS,
        "input_audio_tokens": st.integers(0, 100),
        "cache_audio_read_tokens": st.integers(0, 10),
        "output_audio_tokens": st.integers(0, 100),
    },
)
TIMES = st.integers(0, 2 * 365 * 24).map(lambda hours: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=hours))


def by_the_list(response):
    try:
        provider, model = get_snapshot().find_provider_model(response.model_name, None, response.provider_name, None)
        price = model.calc_price(
            response.usage,
            provider,
            genai_request_timestamp=response.timestamp,
            price_context=response.provider_details,
        )
    except (LookupError, ValueError):
        return None
    return int((price.total_price * 10**9).to_integral_value(ROUND_CEILING))


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(LISTED), USAGES, TIMES, st.sampled_from([None, {"service_tier": "flex"}, {"finish_reason": "x"}])
)
def test_every_listed_model_costs_exactly_what_the_price_list_calculates(listed, usage, at, details):
    provider, model = listed
    response = ModelResponse(
        parts=[],
        usage=RequestUsage(**usage),
        model_name=model.id,
        provider_name=provider.id,
        timestamp=at,
        provider_details=details,
    )
    expected = by_the_list(response) if response.usage.has_values() else None
    assert cost_nano_usd(response) == expected


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-4.1"])
def test_a_price_without_tiers_is_made_once(name):
    response = answered(name, input_tokens=1, output_tokens=1)
    cost_nano_usd(response)
    entry = _find(name, None, "openai", get_snapshot().timestamp)
    assert entry.tariff(response) is entry.tariff(response) is not None
