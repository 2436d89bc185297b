"""Pure helpers. Imports nothing of ours."""
