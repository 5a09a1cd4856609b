"""Shards on disk, what samples draw, and batches made of them."""
