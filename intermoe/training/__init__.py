"""Training objectives, one file each, and the samples of a step."""
