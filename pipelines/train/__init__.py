"""Shards to a trained network."""
