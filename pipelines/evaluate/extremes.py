"""The best and the worst of an evaluation: samples that the evaluator puts near to their caption, and far from it."""

from collections.abc import Mapping

from intermoe.evaluation.runner import Arrays, JobRunner
from intermoe.evaluation.scoring import distances_from_captions
from intermoe.generation import best_device
from intermoe.places import Place
from intermoe.render.page import Panel, Scene
from pipelines.evaluate.request import EvaluationPlan

_COUNT = 3


def extreme_scenes(plan: EvaluationPlan, parts: Mapping[str, Arrays], folder: Place) -> list[Scene]:
    """Scenes of the nearest and the farthest samples of the row "generated", each beside its recording.

    They are generated once more, in this process.

    Args:
        plan: of the evaluation.
        parts: what was computed of each of its jobs.
        folder: of the jobs' files.

    Returns:
        Three of the first replication's nearest and three of its farthest, of fewer than six samples half as many; none
        where nothing was generated.
    """
    if "generated" not in plan.spec.rows:
        return []
    ranked = distances_from_captions(plan.jobs, parts)
    count = min(_COUNT, len(ranked) // 2)
    chosen = ranked[:count] + ranked[: -count - 1 : -1]
    names = [f"{word} {number}" for word in ("Nearest", "Farthest") for number in range(1, count + 1)]
    # The driver may have no GPU where its workers have.
    runner = JobRunner(plan.spec, folder, device=str(best_device()) if plan.settings.workers.gpu else "cpu")
    pairs = runner.recorded_and_generated([sample for sample, _ in chosen]) if chosen else []
    return [
        Scene(
            f"{name}: {generated.caption}",
            (Panel(recorded, "recorded"), Panel(generated, f"generated, {distance:.2f} from its caption")),
        )
        for name, (_, distance), (recorded, generated) in zip(names, chosen, pairs, strict=True)
    ]
