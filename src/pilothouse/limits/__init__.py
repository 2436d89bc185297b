"""Rate limits: none yet."""
