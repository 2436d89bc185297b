"""The demo: the support agent, a shop of its own, and a token that is ready to use."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilothouse.app import Pilothouse, Services
from pilothouse.cli.actions.listen import bind
from pilothouse.cli.actions.serving import run_app
from pilothouse.cli.output import show
from pilothouse.demo import PROMPT, OfflineModel, Shop, ShopTools, demo_model, support_agent
from pilothouse.identity.demo import ensure_local_key
from pilothouse.kit.addresses import is_loopback
from pilothouse.settings import Settings, load_settings


def create_demo_app(settings: Settings, environ: Mapping[str, str]) -> Pilothouse:
    """The support agent with its shop in the data folder; the model is a real one where there is a key for it."""
    app = Pilothouse(settings, environ=environ)
    app.agent(
        support_agent(),
        prompt=PROMPT,
        model=demo_model(_with_settings(settings, environ)),
        tools=ShopTools(Shop(settings.data.dir / "shop.db")).all(),
    )
    return app


def run_demo(*, host: str | None, port: int | None, data_dir: Path | None, log_level: str) -> None:
    """Serve the demo until a signal.

    Raises:
        StartupError: it can't be served here.
    """
    server: dict[str, Any] = {"environment": "development"}
    given = {"host": host, "port": port}
    server.update({name: value for name, value in given.items() if value is not None})
    groups: dict[str, Any] = {"server": server, "log": {"level": log_level}}
    if data_dir is not None:
        groups["data"] = {"dir": data_dir}
    settings = load_settings(**groups)
    with bind(settings.server.host, settings.server.port) as listener:
        app = create_demo_app(settings, os.environ)
        tokens: list[str] = []

        async def make_token(services: Services) -> None:
            tokens.append(await ensure_local_key(services.database, settings.data.dir))
            if not is_loopback(settings.server.host):
                await services.identity.start()  # now that there is a key, callers can identify themselves

        run_app(app, listener, before=make_token, listening=lambda url: _welcome(url, tokens[0], app))


def _with_settings(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment, with what stands in `.env` only."""
    known = dict(environ)
    if settings.models.default:
        known["PILOTHOUSE_MODELS_DEFAULT"] = settings.models.default
    for group in ("openai", "anthropic", "azure"):
        key = getattr(settings, group).api_key
        if key is not None:
            known[f"PILOTHOUSE_{group.upper()}_API_KEY"] = key.get_secret_value()
    return known


def _welcome(url: str, token: str, app: Pilothouse) -> None:
    agent = next(iter(app.agents))
    offline = isinstance(agent.model, OfflineModel)
    model = "a scripted offline model; set OPENAI_API_KEY or ANTHROPIC_API_KEY for a real one"
    body = json.dumps({"message": "Where is order 1042?"})
    show(
        f"Pilothouse is listening on {url}\n"
        f"console: {url}/console/#token={token}\n"
        f"token: {token}\n"
        f"model: {model if offline else agent.model_name}\n\n"
        f"Chat here:  pilothouse chat{'' if url.endswith(':8420') else f' --url {url}'}\n"
        f"Or call it: curl -N {url}/v1/chat/stream -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n\n"
        f"Ctrl-C stops it. Its data is in {app.settings.data.dir.absolute()}"
    )
