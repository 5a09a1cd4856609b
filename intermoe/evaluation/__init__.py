"""Evaluation of a model: the evaluator, the five metrics, identity, and physical plausibility."""
