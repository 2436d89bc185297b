"""Models that agents bring: taken over to our connections as they are, or left alone."""

from contextlib import asynccontextmanager

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models import create_async_httpx2_client
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.azure import AzureProvider
from pydantic_ai.providers.deepseek import DeepSeekProvider
from pydantic_ai.providers.gateway import gateway_provider
from pydantic_ai.providers.openai import OpenAIProvider
from tests.llm.helpers import KEY, RecordingSink, ask, byte_server, watched_by

from pilothouse.errors import StartupError
from pilothouse.llm import resilient
from pilothouse.llm.adopt import adopt
from pilothouse.llm.gateway import ModelGateway
from pilothouse.settings import Settings
from pilothouse.testing.provider import Script, ScriptedProvider, Turn

OTHER_KEY = "sk-another-7777"
WORDS = " ".join(f"w{number:03d}" for number in range(60))


@pytest.fixture
def brought(monkeypatch):
    """Environment of a user whose agents are `Agent("openai:...")`."""

    def agent(name: str, provider: ScriptedProvider) -> Agent:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.anthropic_base_url)
        return Agent(name)

    return agent


@asynccontextmanager
async def empty_gateway():
    gateway = ModelGateway(Settings(), {})
    try:
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def our_client():
    async with httpx2.AsyncClient() as http_client:
        yield http_client


NAMES = ["openai:m", "openai-chat:m", "anthropic:m"]


@pytest.mark.parametrize("name", NAMES)
async def test_an_agents_own_model_takes_the_short_way(name, brought):
    script = Script(turns=[Turn(tokens=60, reasoning="Hm. " * 9)])
    async with ScriptedProvider(script) as provider, empty_gateway() as gateway:
        agent = brought(name, provider)
        before = (agent.model, agent.model.client, agent.model.client._client, agent.model.client.max_retries)
        model = gateway.model(agent.model)
        with watched_by(RecordingSink()) as sink:
            response = await ask(model)
        assert response.text == sink.joined() == WORDS
        assert sink.joined("reasoning") == "Hm. " * 9
        assert gateway._http_client._transport._session is not None
        assert len([kind for kind, _ in sink.calls if kind == "text"]) < 30
        assert (agent.model, agent.model.client, agent.model.client._client, agent.model.client.max_retries) == before
        assert agent.model.provider._own_http_client is agent.model.client._client
        assert provider.requests[0].headers["authorization"].endswith(KEY[-4:])


async def test_the_transport_publishes_for_a_model_taken_over(brought, monkeypatch):
    traces = []

    real = resilient.StreamTrace
    monkeypatch.setattr(resilient, "StreamTrace", lambda *a, **k: traces.append(real(*a, **k)) or traces[-1])
    async with ScriptedProvider(Script(turns=[Turn(tokens=6)])) as provider, empty_gateway() as gateway:
        with watched_by(RecordingSink()):
            await ask(gateway.model(brought("openai:m", provider).model))
    assert [trace.short_way for trace in traces] == [True]


def openai_client(**kwargs):
    return AsyncOpenAI(api_key=KEY, base_url="http://one.example/v1", **kwargs)


def chat(**kwargs):
    return OpenAIChatModel("m", provider=OpenAIProvider(openai_client=openai_client(**kwargs)))


async def test_everything_but_the_connections_is_kept():
    client = openai_client(
        default_headers={"X-Team": "blue"}, default_query={"q": "1"}, organization="org", project="p", timeout=7
    )
    provider = OpenAIProvider(openai_client=client)
    settings = {"temperature": 0.5}
    profile = {"supports_tools": False}
    given = OpenAIResponsesModel("m", provider=provider, settings=settings, profile=profile)
    async with our_client() as http_client:
        model = adopt(given, http_client)
    assert model is not given
    assert type(model) is OpenAIResponsesModel
    assert (model.model_name, model.system, model.base_url) == ("m", "openai", "http://one.example/v1/")
    assert model.settings == settings
    assert model.profile == given.profile
    own = model.client
    assert own._client is http_client
    assert (own.api_key, own.max_retries, own.timeout) == (KEY, 0, 7)
    assert (own.organization, own.project, own.default_query) == ("org", "p", {"q": "1"})
    assert own.default_headers == client.default_headers
    assert own.responses._client is own
    assert model._websocket is not given._websocket
    assert (client.max_retries, given.client, given.provider) == (2, client, provider)


async def test_a_default_header_reaches_the_provider():
    async with ScriptedProvider(Script(turns=[Turn(text="Hi")])) as provider, empty_gateway() as gateway:
        client = AsyncOpenAI(api_key=OTHER_KEY, base_url=provider.openai_base_url, default_headers={"X-Team": "blue"})
        with watched_by(RecordingSink()):
            await ask(gateway.model(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))))
        request = provider.requests[0]
    assert request.headers["x-team"] == "blue"
    assert request.headers["authorization"].endswith(OTHER_KEY[-4:])


async def test_azure_keeps_its_way_of_signing_in():
    client = AsyncAzureOpenAI(api_key=KEY, azure_endpoint="http://one.example", api_version="2025-01-01")
    given = OpenAIChatModel("deployed", provider=AzureProvider(openai_client=client))
    v1 = OpenAIChatModel("m", provider=AzureProvider(azure_endpoint="http://one.example/openai/v1", api_key=KEY))
    async with our_client() as http_client:
        model, other = adopt(given, http_client), adopt(v1, http_client)
    assert type(model.client) is AsyncAzureOpenAI
    assert (model.client._api_version, model.client.api_key) == ("2025-01-01", KEY)
    assert str(model.client.base_url) == str(client.base_url)
    assert (other.system, other.base_url, other.provider.base_url) == ("azure", v1.base_url, v1.provider.base_url)


async def test_other_providers_of_the_same_wire_are_taken_over_too():
    given = OpenAIChatModel("m", provider=DeepSeekProvider(api_key=KEY))
    async with our_client() as http_client:
        model = adopt(given, http_client)
    assert (model.system, model.base_url) == ("deepseek", given.base_url)
    assert model.provider._own_http_client is None


class OwnClient(AsyncOpenAI):
    pass


class OwnModel(OpenAIChatModel):
    pass


class OwnProvider(OpenAIProvider):
    pass


class OwnTransport(httpx2.AsyncHTTPTransport):
    pass


async def hook(_):
    pass


def with_changed_http(**changes):
    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url="http://one.example/v1", api_key=KEY))
    for name, value in changes.items():
        setattr(model.client._client, name, value)
    return model


async def token():
    return "t"


LEFT_ALONE = {
    "http client of the sdk's client": lambda: chat(http_client=httpx2.AsyncClient()),
    "http client of the provider": lambda: OpenAIChatModel(
        "m", provider=OpenAIProvider(base_url="http://one.example/v1", api_key=KEY, http_client=httpx2.AsyncClient())
    ),
    "http client by pydantic ai's own factory": lambda: OpenAIChatModel(
        "m", provider=OpenAIProvider(api_key=KEY, http_client=create_async_httpx2_client())
    ),
    "http client of anthropic": lambda: AnthropicModel(
        "m", provider=AnthropicProvider(api_key=KEY, http_client=httpx2.AsyncClient())
    ),
    "transport": lambda: with_changed_http(_transport=OwnTransport()),
    "hooks": lambda: with_changed_http(event_hooks={"request": [hook]}),
    "response hooks": lambda: with_changed_http(event_hooks={"response": [hook]}),
    "headers": lambda: with_changed_http(headers={"X-Team": "blue"}),
    "auth": lambda: with_changed_http(auth=("user", "pass")),
    "cookies": lambda: with_changed_http(cookies={"a": "b"}),
    "params": lambda: with_changed_http(params={"a": "b"}),
    "subclass of the client": lambda: OpenAIChatModel(
        "m", provider=OpenAIProvider(openai_client=OwnClient(api_key=KEY))
    ),
    "subclass of the model": lambda: OwnModel("m", provider=OpenAIProvider(api_key=KEY)),
    "subclass of the provider": lambda: OpenAIChatModel("m", provider=OwnProvider(api_key=KEY)),
    "strict validation": lambda: chat(_strict_response_validation=True),
    "credentials of anthropic": lambda: AnthropicModel(
        "m", provider=AnthropicProvider(anthropic_client=AsyncAnthropic(credentials=token))
    ),
    "gateway": lambda: OpenAIChatModel("m", provider=gateway_provider("openai", api_key="pylf_v1_us_x" + "a" * 30)),
    "fallback": lambda: FallbackModel(chat()),
    "wrapper": lambda: WrapperModel(chat()),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
async def test_what_somebody_chose_is_left_alone(name):
    model = LEFT_ALONE[name]()
    async with our_client() as http_client, empty_gateway() as gateway:
        assert adopt(model, http_client) is None
        assert gateway._models.get(model) is model


async def test_a_provider_whose_http_client_was_swapped_is_left_alone():
    model = with_changed_http()
    model.client._client = httpx2.AsyncClient()
    async with our_client() as http_client:
        assert adopt(model, http_client) is None


async def test_a_model_is_taken_over_once():
    given = chat()
    async with empty_gateway() as gateway:
        assert gateway._models.get(given) is gateway._models.get(given) is not given
        assert gateway.model(given) is gateway.model(given)


class TestCheck:
    """The check at start, of models that agents bring."""

    @pytest.mark.parametrize("name", NAMES)
    async def test_a_key_the_provider_takes_passes(self, name, brought):
        async with ScriptedProvider() as provider, empty_gateway() as gateway:
            await gateway.check([brought(name, provider).model])

    @pytest.mark.parametrize(
        ("name", "variable"), [("openai:m", "OPENAI_API_KEY"), ("anthropic:m", "ANTHROPIC_API_KEY")]
    )
    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_refused_key_stops_the_start_with_a_sentence_and_without_the_key(
        self, name, variable, status, monkeypatch
    ):
        head = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
        async with byte_server([[]], head=head) as server, empty_gateway() as gateway:
            monkeypatch.setenv(variable, KEY)
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url.removesuffix("/v1"))
            models = [Agent(name).model, Agent(name).model]
            with pytest.raises(StartupError, match=f"{name}.*{variable}.*PILOTHOUSE_MODELS_CHECK=false") as caught:
                await gateway.check(models)
            assert KEY not in str(caught.value)
            assert len(server.requests) == 1
            assert server.requests[0].startswith(b"GET /v1/models ")
            assert f"Bearer {KEY}".encode() in server.requests[0]

    async def test_another_key_at_the_same_address_is_tried_too(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        async with byte_server([[b"{}"]], head=head) as server, empty_gateway() as gateway:
            await gateway.check(
                [OpenAIChatModel("m", provider=OpenAIProvider(base_url=server.url, api_key=key)) for key in "abab"]
            )
            assert len(server.requests) == 2

    async def test_an_unreachable_provider_names_the_address_and_no_password(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", "http://user:pass@127.0.0.1:9/v1")
        async with empty_gateway() as gateway:
            with pytest.raises(StartupError, match=r"127\.0\.0\.1:9.*OPENAI_BASE_URL") as caught:
                await gateway.check([Agent("openai:m").model])
        assert "pass@" not in str(caught.value)

    @pytest.mark.parametrize("status", [404, 500])
    async def test_trouble_of_the_providers_own_passes(self, status):
        head = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
        async with byte_server([[]], head=head) as server, empty_gateway() as gateway:
            await gateway.check([OpenAIChatModel("m", provider=OpenAIProvider(base_url=server.url, api_key=KEY))])
            assert len(server.requests) == 1

    async def test_models_left_alone_are_not_asked_about(self):
        async with empty_gateway() as gateway:
            await gateway.check([LEFT_ALONE["http client of the provider"](), LEFT_ALONE["fallback"]()])


class TestReferences:
    """Which wire a reference means."""

    @pytest.mark.parametrize(
        ("reference", "base_url", "kind"),
        [
            ("openai:m", None, OpenAIResponsesModel),
            ("openai:m", "https://api.openai.com/v1", OpenAIResponsesModel),
            ("openai:m", "https://eu.api.openai.com/v1", OpenAIResponsesModel),
            ("openai:m", "https://notapi.openai.com.example/v1", OpenAIChatModel),
            ("openai:m", "https://evil-api.openai.com/v1", OpenAIChatModel),
            ("openai:m", "http://localhost:11434/v1", OpenAIChatModel),
            ("openai-chat:m", None, OpenAIChatModel),
            ("openai-chat:m", "http://localhost:11434/v1", OpenAIChatModel),
            ("openai-responses:m", None, OpenAIResponsesModel),
            ("openai-responses:m", "http://localhost:11434/v1", OpenAIResponsesModel),
            ("azure:m", None, OpenAIChatModel),
            ("azure-responses:m", None, OpenAIResponsesModel),
        ],
    )
    @pytest.mark.parametrize("by", ["settings", "environ"])
    async def test_openai_means_responses_at_openai_and_chat_at_compatible_endpoints(
        self, reference, base_url, kind, by
    ):
        own = {"api_key": KEY, **({"base_url": base_url} if base_url and by == "settings" else {})}
        environ = {"OPENAI_BASE_URL": base_url} if base_url and by == "environ" else {}
        settings = Settings(openai=own, azure={"api_key": KEY, "endpoint": "http://one.example"})
        gateway = ModelGateway(settings, environ)
        model = gateway._models.get(reference)
        await gateway.close()
        assert type(model) is kind
        assert model.model_name == "m"
        assert model.base_url.rstrip("/") == (
            "http://one.example/openai/v1" if "azure" in reference else base_url or "https://api.openai.com/v1"
        )

    @pytest.mark.parametrize("reference", ["openai:gpt-5-mini", "openai-chat:gpt-5-mini", "anthropic:m"])
    async def test_a_reference_means_what_the_same_agent_means(self, reference, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        gateway = ModelGateway(Settings(openai={"api_key": KEY}, anthropic={"api_key": KEY}), {})
        model, agents = gateway._models.get(reference), Agent(reference).model
        await gateway.close()
        assert (type(model), model.base_url, model.system) == (type(agents), agents.base_url, agents.system)
        assert model.profile == agents.profile
