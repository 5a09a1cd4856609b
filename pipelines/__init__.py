"""The jobs: Ray and MLflow around the science of ``intermoe``."""

import os

# Ray, MLflow and PyTorch's profiler read these when they are imported or started, so they are set before any module of
# the jobs imports them.
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A Ctrl-C is ours to handle: Tune would end its trials and go on as if they had come to their end.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # What Ray would print on standard output: that a worker ended, of which we have a line (train/restarts.py); that an
    # actor that has started again is asked again; that there are more processes than it expects, as in every sweep.
    "RAY_DEDUP_LOGS_SKIP_REGEX": (
        r"^(A worker died or was killed while executing a task"
        r"|Task \S+ failed\. There are infinite retries remaining"
        r"|WARNING: \d+ PYTHON worker processes have been started)"
    ),
    # Tune's newer tables cannot be turned off.
    "RAY_AIR_NEW_OUTPUT": "0",
    # No calls home, no running commentary.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # What failed is tried again by whoever knows whether the server may have done it (tracking/delivery.py): MLflow's
    # own retries send it again as it is, and take minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # Without it, the profiler prints lines of its own.
    "KINETO_LOG_LEVEL": "99",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
