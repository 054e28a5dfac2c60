"""Sockets that carry frames: kept buffers, heartbeat, reconnection under the same identity."""
