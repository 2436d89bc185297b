"""Idempotency keys: a request that is sent again is answered again, not done again."""
