"""Proxies as the usual variables name them.

aiohttp's own reading of them also takes passwords from `~/.netrc`, which clash with the keys of providers.
"""

from collections.abc import Mapping
from urllib import request

import aiohttp
from yarl import URL

__all__ = ["Proxies"]


class Proxies:
    """`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in small letters first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._by_scheme = {scheme: _look_up(environ, f"{scheme}_proxy") for scheme in ("http", "https", "all")}
        self._bypass = {"no": _look_up(environ, "no_proxy") or ""}

    def proxy_for(self, url: URL) -> tuple[URL | None, dict[str, str]]:
        """The proxy for an address, and the headers for the proxy itself."""
        named = self._by_scheme.get(url.scheme) or self._by_scheme["all"]
        if not named or self._is_bypassed(url.host or ""):
            return None, {}
        proxy = URL(named if "://" in named else f"http://{named}")
        if proxy.user is None:
            return proxy, {}
        credentials = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
        return proxy.with_user(None), {"Proxy-Authorization": credentials}

    def _is_bypassed(self, host: str) -> bool:
        return bool(request.proxy_bypass_environment(host, self._bypass))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


def _look_up(environ: Mapping[str, str], name: str) -> str | None:
    return environ.get(name) or environ.get(name.upper())
