"""The provider gateway: models by reference, streamed the short way, retried, and failing in our own words."""
