"""Measurements of speed, each beside what the machine could do: a file per part, and what they share."""
