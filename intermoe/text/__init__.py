"""Frozen text encoders, the trained head on them, and captions."""
