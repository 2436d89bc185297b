"""A support agent as a project of your own would wire it. Run: pilothouse serve app:app"""

import os
from pathlib import Path

from pydantic_ai import Agent

from pilothouse import Pilothouse
from pilothouse.demo import Shop, ShopTools, demo_model

shop = Shop(Path(os.environ.get("PILOTHOUSE_DATA_DIR", ".pilothouse")) / "shop.db")

app = Pilothouse()
app.agent(
    Agent(name="support", description="Answers questions about orders, tracks parcels and gives refunds."),
    prompt=Path(__file__).with_name("prompts") / "support.md",
    model=demo_model(os.environ),
    tools=ShopTools(shop).all(),
)
