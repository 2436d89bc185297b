"""`/health/live` and `/health/ready`: for load balancers and orchestrators, without a token."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from pilothouse.kit.health import Check, Health


class CheckOut(BaseModel):
    """One thing the process needs."""

    ok: bool
    age_seconds: float = Field(description="Seconds since it was last known to be good.")
    reason: str | None = Field(default=None, description="What is wrong with it.")


class ReadyOut(BaseModel):
    """Whether the process takes work."""

    status: str = Field(description="`ready` or `not ready`.")
    reason: str | None = Field(default=None, description="Why it takes no work.")
    checks: dict[str, CheckOut] = Field(
        description="By name: database, schema, the lease among several nodes, and each background loop."
    )


def health_router(health: Callable[[], Awaitable[Health]]) -> APIRouter:
    """The two routes.

    Args:
        health: how this process is.
    """
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live", summary="The process works")
    async def live() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Says nothing of the database: restarting this process would not bring that back."""
        return {"status": "ok"}

    @router.get(
        "/ready",
        summary="The process takes work",
        response_model=ReadyOut,
        responses={503: {"model": ReadyOut, "description": "It is stopping, or can't execute runs now."}},
    )
    async def is_ready() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """200 if new runs are accepted, 503 with the reason if not; and what each part has to say, with its age."""
        now = await health()
        checks = {check.name: _document(check) for check in now.checks}
        if now.reason is None:
            return JSONResponse({"status": "ready", "checks": checks})
        document = {"status": "not ready", "reason": now.reason, "checks": checks}
        return JSONResponse(document, 503, {"Retry-After": "1"})

    return router


def _document(check: Check) -> dict[str, Any]:
    document: dict[str, Any] = {"ok": check.ok, "age_seconds": round(check.age_seconds, 1)}
    return document if check.reason is None else {**document, "reason": check.reason}
