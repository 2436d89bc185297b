"""What the support agent can do in the shop."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from pilothouse.demo.shop import RefundRefused, Shop
from pilothouse.tools import current_tool_call, tool, tool_error

OrderId = Annotated[str, Field(description="The order's number, such as 1042.", max_length=20)]


class ShopTools:
    """Tools over one shop: `app.agent(..., tools=ShopTools(shop).all())`."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def all(self) -> list[Callable[..., Any]]:
        """Every tool of the shop."""
        return [self.order_lookup, self.list_orders, self.shipping_status, self.refund]

    @tool(effect="pure")
    async def order_lookup(self, order_id: OrderId) -> dict[str, Any]:
        """Look up one order: its items, total, status and what was refunded. Amounts are euro cents."""
        return await self._shop.order(order_id.strip().lstrip("#")) or _no_order(order_id)

    @tool(effect="pure")
    async def list_orders(
        self, email: Annotated[str, Field(description="The customer's address.")] = "mira@example.com"
    ) -> list[dict[str, Any]]:
        """List a customer's orders, newest first. The demo's customer is mira@example.com."""
        return await self._shop.orders(email)

    @tool(effect="idempotent", timeout=15)
    async def shipping_status(self, order_id: OrderId) -> dict[str, Any]:
        """Say where a parcel is: carrier, tracking number and expected day."""
        order = await self._shop.order(order_id.strip().lstrip("#"))
        if order is None:
            return _no_order(order_id)
        return {key: order[key] for key in ("id", "status", "carrier", "tracking", "arrives_on")}

    @tool(effect="once", timeout=20)
    async def refund(
        self,
        order_id: OrderId,
        cents: Annotated[int | None, Field(description="Euro cents; left out: all that is left.", gt=0)] = None,
        reason: Annotated[str, Field(description="Why, in a few words.", max_length=200)] = "",
    ) -> dict[str, Any]:
        """Give money back for an order. Money moves once: ask before you call this a second time."""
        call = current_tool_call()
        try:
            return await self._shop.refund(
                order_id.strip().lstrip("#"), cents, reason, key=call.idempotency_key if call else None
            )
        except RefundRefused as refusal:
            return tool_error("rejected", str(refusal))


def _no_order(order_id: str) -> dict[str, Any]:
    return tool_error("rejected", f"There is no order {order_id[:20]}. Ask for the number again.")
