"""How a refused caller is told so."""

from pilothouse.errors import Unauthenticated


def unauthenticated(message: str, *, given: bool = True) -> Unauthenticated:
    """A 401 with the challenge of RFC 6750, section 3: `error` only where credentials were `given`."""
    challenge = 'Bearer realm="pilothouse"' + (', error="invalid_token"' if given else "")
    return Unauthenticated(message, headers={"WWW-Authenticate": challenge})
