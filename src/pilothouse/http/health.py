"""`/health/live` and `/health/ready`: for load balancers and orchestrators, without a token."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.responses import JSONResponse

Check = Callable[[], Awaitable[str | None]]
"""None where all is well, otherwise what is not."""


def health_router(ready: Check) -> APIRouter:
    """The two routes.

    Args:
        ready: what keeps this process from taking work, if anything.
    """
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live", summary="The process works")
    async def live() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Says nothing of the database: restarting this process would not bring that back."""
        return {"status": "ok"}

    @router.get(
        "/ready",
        summary="The process takes work",
        response_model=dict[str, str],
        responses={503: {"model": dict[str, str], "description": "It is stopping, or the database is away."}},
    )
    async def is_ready() -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        """200 where new runs are accepted, 503 with the reason where not."""
        reason = await ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason}, 503, {"Retry-After": "1"})

    return router
