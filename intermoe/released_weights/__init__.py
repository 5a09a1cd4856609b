"""Weights that others have published, under the names of this project."""
