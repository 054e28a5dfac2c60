"""What outlives a process: the SQLite record, the journal of packets and snapshots, blobs addressed by SHA-256."""
