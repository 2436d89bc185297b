"""What keeps an application from starting."""

import pytest
from pydantic_ai import Agent

from pilothouse import Pilothouse
from pilothouse.errors import StartupError
from pilothouse.settings import load_settings


async def test_an_agent_without_a_model_stops_the_start_with_one_sentence(tmp_path):
    app = Pilothouse(load_settings(None, data={"dir": tmp_path}), environ={})
    app.agent(Agent(name="mute"))
    with pytest.raises(StartupError, match=r"^Agent mute has no model\. Give it one, .*PILOTHOUSE_MODELS_DEFAULT"):
        async with app.running():
            pass


async def test_a_second_application_on_the_same_folder_gets_one_sentence_and_leaves_the_first_alone(tmp_path):
    settings = load_settings(None, data={"dir": tmp_path})
    async with Pilothouse(settings, environ={}).running():
        with pytest.raises(StartupError, match=r"Another Pilothouse process .* uses the data folder"):
            async with Pilothouse(settings, environ={}).running():
                pass
    async with Pilothouse(settings, environ={}).running() as services:
        assert (await services.readiness.report()).reason is None
