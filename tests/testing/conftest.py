"""The scripted provider and the official clients of both wires, without retries."""

from collections.abc import AsyncIterator

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from pilothouse.testing import ScriptedProvider

KEY = "sk-client-key-1234"


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
async def openai(provider: ScriptedProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.openai_base_url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(provider: ScriptedProvider) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=provider.anthropic_base_url, api_key=KEY, max_retries=0) as client:
        yield client
