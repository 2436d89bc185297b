"""Origins and hosts, as browsers write them."""

import pytest

from pilothouse.kit.origins import Origin, parse_origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost", Origin("http", "localhost", 80)),
        ("https://Shop.example:8443", Origin("https", "shop.example", 8443)),
        ("https://my_service", Origin("https", "my_service", 443)),
        ("http://[::1]:5173", Origin("http", "[::1]", 5173)),
    ],
)
def test_an_origin_has_a_scheme_a_host_and_a_port(text: str, origin: Origin):
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "http://",
        "http://[x",
        "http://[::1",
        "http://a]",
        "evil://host",
        "chrome-extension://localhost",
        "http://user@host",
        "http://host/path",
        "http://host:99999",
        "http://host:x",
        "http://host\n",
        "http://hóst",
        "//host",
        "http:host",
    ],
)
def test_what_is_no_origin_of_a_page_is_none(text: str):
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://shop.example", "shop.example", True),
        ("https://shop.example", "shop.example", True),  # behind a proxy that ends TLS
        ("https://shop.example", "shop.example:443", True),
        ("http://shop.example:8420", "SHOP.example:8420", True),
        ("http://[::1]:8420", "[::1]:8420", True),
        ("http://shop.example", "shop.example:8420", False),
        ("http://shop.example", "evil.example", False),
        ("http://shop.example", "shop.example:x", False),
        ("http://shop.example", "", False),
    ],
)
def test_a_page_belongs_to_a_host_if_name_and_port_are_the_same(origin: str, host: str, same: bool):
    parsed = parse_origin(origin)
    assert parsed is not None
    assert parsed.is_of(host) is same
