"""The jobs: Ray and MLflow around the science of `intermoe`."""
