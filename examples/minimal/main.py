"""An agent on a server. Run: pilothouse serve main:app --local"""

from pydantic_ai import Agent

from pilothouse import Pilothouse

app = Pilothouse()
app.agent(Agent(name="helper"), model="openai:gpt-6-luna")
