"""One file to many trainings and evaluations."""
