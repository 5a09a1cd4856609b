"""A sweep to the paper's tables."""
