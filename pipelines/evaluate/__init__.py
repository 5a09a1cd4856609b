"""A trained model to a table."""
