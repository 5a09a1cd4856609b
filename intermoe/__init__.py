"""The science of two-person motion: PyTorch only, usable from a notebook."""
