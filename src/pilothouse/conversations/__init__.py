"""Conversations: an ordered transcript with an owner."""
