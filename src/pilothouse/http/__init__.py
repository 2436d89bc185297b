"""What every HTTP face shares: problem documents, middleware, event streams, pages."""
