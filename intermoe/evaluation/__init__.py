"""How good a model is: the evaluator, the five metrics, identity, and what bodies can do."""
