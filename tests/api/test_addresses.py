"""Addresses with a slash too many or too few."""

import pytest
from tests.support.server import running

from pilothouse.testing.provider import Script


@pytest.mark.parametrize("path", ["/v1/chat/", "/v1/chat/stream/", "/v1/conversations/", "/health/ready/", "/docs/"])
async def test_a_slash_too_many_is_not_found_and_sends_nobody_elsewhere(sqlite_url, path):
    async with running(sqlite_url) as server:
        for method in ("POST", "GET"):
            answer = await server.http.request(method, path, json={"message": "Hi"})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            assert "without the slash at its end" in answer.json()["detail"]
            assert "location" not in answer.headers


async def test_the_console_is_found_with_and_without_its_slash_by_a_relative_address(sqlite_url):
    async with running(sqlite_url, Script(), server={"console": True}) as server:
        answer = await server.http.get("/console")
        assert (answer.status_code, answer.headers["location"]) == (307, "console/")
