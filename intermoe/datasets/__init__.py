"""Readers of raw recordings, one a format."""
