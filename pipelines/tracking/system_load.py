"""The load of this machine as curves of a run: processors, memory, disk, network, GPUs."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from intermoe.errors import UserError

_PREFIX = "system/"
_SECONDS = 10.0


class SystemLoad:
    """A thread that measures every ten seconds until it is stopped.

    MLflow's own monitor asks the store at each measurement, and ends for good when that does not answer; its ways of
    measuring are used here.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        log: Callable[[Mapping[str, float], int], None],
        waiting: Callable[[], Iterable[tuple[int, Iterable[str]]]],
    ) -> None:
        """Begin to measure.

        Args:
            uri: of the store, which says how far the curves are.
            run_id: of the run.
            log: takes the measures and their step.
            waiting: gives step and names of the points that the store does not have yet.
        """
        self._uri, self._run_id, self._log, self._waiting = uri, run_id, log, waiting
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Measure no more; what is being asked of the store is not waited for."""
        self._stopped.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _SECONDS
        monitor = SystemMetricsMonitor(self._run_id, tracking_uri=self._uri)
        step: int | None = None
        while not self._stopped.wait(interval):
            monitor.collect_metrics()
            if step is None:
                step = self._first_step()
            if step is None or self._stopped.is_set():
                continue
            # A full disk is said by who writes what matters.
            with suppress(UserError):
                self._log({f"{_PREFIX}{name}": value for name, value in monitor.aggregate_metrics().items()}, step)
            step += 1
            for part in monitor.monitors:
                part.clear_metrics()

    def _first_step(self) -> int | None:
        """The step after those of earlier attempts; None where the store does not say."""
        try:
            # In this order: what is delivered between the two is seen twice.
            waiting = [step for step, names in self._waiting() if any(name.startswith(_PREFIX) for name in names)]
            metrics = MlflowClient(self._uri).get_run(self._run_id).data._metric_objs
        except Exception:
            # Whatever it is, the next measurement asks again.
            return None
        return max([-1, *waiting, *(metric.step for metric in metrics if metric.key.startswith(_PREFIX))]) + 1
