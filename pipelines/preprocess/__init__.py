"""Raw recordings to shards."""
