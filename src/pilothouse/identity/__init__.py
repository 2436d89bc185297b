"""Identity: API keys, JWTs, scopes, and the `Principal` every request acts as."""

from pilothouse.identity.keys import ApiKey, Keys
from pilothouse.identity.principal import SCOPES, USER_SCOPES, Principal, local_principal
from pilothouse.identity.service import Identity

__all__ = ["SCOPES", "USER_SCOPES", "ApiKey", "Identity", "Keys", "Principal", "local_principal"]
