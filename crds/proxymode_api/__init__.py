"""proxymode."""
