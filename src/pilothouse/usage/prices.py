"""What a model response cost, by the public price lists in genai-prices. Money is integer nano-dollars."""

from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, Provider
from pydantic_ai.messages import ModelResponse

__all__ = ["cost_nano_usd", "format_usd"]

_NANO = Decimal(1_000_000_000)
_DIGITS = 9


def cost_nano_usd(response: ModelResponse) -> int | None:
    """The price of a response in nano-dollars, rounded up; `None` where the price or the usage is not known."""
    usage = response.usage
    if not response.model_name or usage.unmeasured_requests or not usage.has_values():
        return None
    found = _find(response.model_name, response.provider_url, response.provider_name, get_snapshot().timestamp)
    if found is None:
        return None
    provider, model = found
    try:
        price = model.calc_price(
            usage, provider, genai_request_timestamp=response.timestamp, price_context=response.provider_details
        )
    except (LookupError, ValueError):
        return None
    return int((price.total_price * _NANO).to_integral_value(ROUND_CEILING))


def format_usd(nano: int | None) -> str | None:
    """Nano-dollars as a decimal string in dollars, without trailing zeros: `842000` is `0.000842`."""
    if nano is None:
        return None
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), 10**_DIGITS)
    fraction = f"{part:0{_DIGITS}d}".rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


@lru_cache(maxsize=1024)
def _find(name: str, url: str | None, provider: str | None, snapshot_at: datetime) -> tuple[Provider, ModelInfo] | None:
    """Provider and price entry, by address first, then by name. A miss costs milliseconds, so it is remembered too.

    `snapshot_at` is the time of the price list in use: a newer list is looked up anew.
    """
    del snapshot_at
    snapshot = get_snapshot()
    for provider_id, provider_url in ((None, url), (provider, None)):
        if provider_id is None and provider_url is None:
            continue
        try:
            return snapshot.find_provider_model(name, None, provider_id, provider_url)
        except LookupError:
            continue
    return None
