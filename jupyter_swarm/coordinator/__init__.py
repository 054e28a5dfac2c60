"""The Jupyter server extension: handlers, sockets, authentication, driving the decisions, the shards and the store."""
