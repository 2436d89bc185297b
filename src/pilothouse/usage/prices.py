"""What a model response cost, by the public price lists in genai-prices. Money is integer nano-dollars."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil, lcm
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices
from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import RequestUsage

__all__ = ["cost_nano_usd", "format_usd"]

_NANO = Decimal(1_000_000_000)
_DIGITS = 9
_PROBE = 1_000_000
# What a text-only response reports, each with what it is a part of.
_PARTS = {
    "input_tokens": None,
    "cache_read_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "output_tokens": None,
    "output_reasoning_tokens": "output_tokens",
}
_NO_PRICED_USAGE = frozenset({*_PARTS, "details", "cost", "unmeasured_requests"})


def cost_nano_usd(response: ModelResponse) -> int | None:
    """The price of a response in nano-dollars, rounded up; `None` where the price or the usage is not known."""
    usage = response.usage
    if not response.model_name or usage.unmeasured_requests or not usage.has_values():
        return None
    entry = _find(response.model_name, response.provider_url, response.provider_name, get_snapshot().timestamp)
    if entry is None:
        return None
    tariff = entry.tariff(response)
    cost = tariff.cost(usage) if tariff is not None else None
    return entry.cost(response) if cost is None else cost


def format_usd(nano: int | None) -> str | None:
    """Nano-dollars as a decimal string in dollars, without trailing zeros: `842000` is `0.000842`."""
    if nano is None:
        return None
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), 10**_DIGITS)
    fraction = f"{part:0{_DIGITS}d}".rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


@dataclass(frozen=True)
class _Tariff:
    """A price without tiers as whole numbers: nano-dollars are `1 / scale` of the sum of each count by its weight."""

    scale: int
    request: int
    weights: tuple[int, ...]

    def cost(self, usage: RequestUsage) -> int | None:
        """As the price list calculates it, rounded up; `None` for usage of other kinds, or that does not add up."""
        if any(count and name not in _NO_PRICED_USAGE for name, count in vars(usage).items()):
            return None
        read, written, reasoned = usage.cache_read_tokens, usage.cache_write_tokens, usage.output_reasoning_tokens
        counts = (usage.input_tokens, read, written, usage.output_tokens, reasoned)
        if not all(type(count) is int and count >= 0 for count in counts):
            return None
        if read + written > usage.input_tokens or reasoned > usage.output_tokens:
            return None
        total = self.request + sum(weight * count for weight, count in zip(self.weights, counts, strict=True))
        return -(-total // self.scale)


@dataclass(frozen=True)
class _Entry:
    """A model in the price list."""

    provider: Provider
    model: ModelInfo
    # With the prices, so that no others get their id.
    tariffs: dict[int, tuple[ModelPrice, _Tariff | None]] = field(
        default_factory=dict[int, tuple[ModelPrice, "_Tariff | None"]]
    )

    def tariff(self, response: ModelResponse) -> _Tariff | None:
        """The price that holds for a response, made once; `None` where it takes more than counts to tell it."""
        context = response.provider_details or {}
        for variant in self.model.price_variants or ():
            if all(context.get(key) == value for key, value in variant.when.items()):
                return None
        prices = self.model.get_prices(response.timestamp)
        if id(prices) not in self.tariffs:
            self.tariffs[id(prices)] = (prices, _made(prices))
        return self.tariffs[id(prices)][1]

    def cost(self, response: ModelResponse) -> int | None:
        """What genai-prices calculates."""
        try:
            price = self.model.calc_price(
                response.usage,
                self.provider,
                genai_request_timestamp=response.timestamp,
                price_context=response.provider_details,
            )
        except (LookupError, ValueError):
            return None
        return ceil(price.total_price * _NANO)


def _made(prices: ModelPrice) -> _Tariff | None:
    """The tariff of prices, found by asking genai-prices for the price of a million of each."""
    if any(isinstance(price, TieredPrices) for price in vars(prices).values()):
        return None
    try:
        request = _probed(prices)
        each: list[Fraction] = []
        for name, whole in _PARTS.items():
            without = _probed(prices, whole) if whole else request
            each.append((_probed(prices, name, whole) - without) / _PROBE)
    except (LookupError, ValueError):
        return None
    scale = lcm(request.denominator, *(weight.denominator for weight in each))
    return _Tariff(scale, int(request * scale), tuple(int(weight * scale) for weight in each))


def _probed(prices: ModelPrice, *names: str | None) -> Fraction:
    counts: dict[str, Any] = {name: _PROBE for name in names if name}
    return Fraction(prices.calc_price(RequestUsage(**counts))["total_price"] * _NANO)


@lru_cache(maxsize=1024)
def _find(name: str, url: str | None, provider: str | None, snapshot_at: datetime) -> _Entry | None:
    """Provider and price entry, by address first, then by name. A miss costs milliseconds, so it is remembered too.

    `snapshot_at` is the time of the price list in use: a newer list is looked up anew.
    """
    del snapshot_at
    snapshot = get_snapshot()
    for provider_id, provider_url in ((None, url), (provider, None)):
        if provider_id is None and provider_url is None:
            continue
        try:
            return _Entry(*snapshot.find_provider_model(name, None, provider_id, provider_url))
        except LookupError:
            continue
    return None
