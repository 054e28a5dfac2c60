"""The flat vector: its layout, how a shard is coded for the wire, how contributions are merged, who holds the result.

torch, no network.
"""
