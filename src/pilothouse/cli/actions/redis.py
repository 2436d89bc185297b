"""Whether Redis answers."""

from typing import Any

from pilothouse.errors import StartupError


async def ping_redis(url: str) -> None:
    """Ask Redis or Valkey for a sign of life.

    Raises:
        StartupError: the `redis` extra is missing, or nothing answers there; the address is shown without password.
    """
    try:
        from redis.asyncio import Redis  # noqa: PLC0415 - the `redis` extra
        from redis.exceptions import RedisError  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        raise StartupError("Redis needs its driver: pip install 'pilothouse[redis]'.") from None
    try:
        client: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url, socket_connect_timeout=5, socket_timeout=5
        )
    except ValueError:
        raise StartupError("PILOTHOUSE_REDIS_URL is not an address. Use redis://host:6379/0.") from None
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise StartupError(
            f"Redis does not answer ({type(error).__name__}). Check that it runs, and PILOTHOUSE_REDIS_URL."
        ) from None
    finally:
        await client.aclose()
