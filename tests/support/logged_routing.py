"""The routing that a training has left in its folder."""

from pathlib import Path

from pipelines.train.routing_history import RoutingHistory


def routing_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The routing in a run's folder as points of step and value, by names such as ``layer0/load3``."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in RoutingHistory(run).read():
        for number, layer in enumerate(entry["layers"]):
            for name, value in layer.items():
                values = {f"{name}{e}": v for e, v in enumerate(value)} if isinstance(value, list) else {name: value}
                for curve, point in values.items():
                    curves.setdefault(f"layer{number}/{curve}", []).append((entry["step"], point))
    return curves
