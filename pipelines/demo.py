"""The whole pipeline once, small, on this machine: Duet -> shards -> VAE -> denoiser -> motions -> table -> MLflow.

Legend: B batch, T frames, P = 2 persons, J joints, R = J - 1, F features of a person-frame.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from intermoe.body.features import joints_from_features
from intermoe.data.batches import interactions
from intermoe.data.draws import UNDRAWN
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.ranges import Joints, Range
from intermoe.files import check_free
from intermoe.locks import locked
from intermoe.model import InterMoE
from intermoe.motion import Motion
from intermoe.places import Place
from pipelines import settings
from pipelines.cluster.progress import Stages
from pipelines.cluster.session import ray_session
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest
from pipelines.evaluate.results import description, terminal_table
from pipelines.generate import PAGE, GenerateRequest, generate
from pipelines.preprocess.preprocess import preprocess
from pipelines.preprocess.request import PreprocessRequest
from pipelines.preprocess.sources import SourceConfig
from pipelines.site import Site
from pipelines.tracking.label import RunLabel
from pipelines.tracking.runs import Run
from pipelines.train.request import TrainRequest
from pipelines.train.train import train

_COUNT, _SECONDS = 600, 4.0
# Half of the usual, for somebody is waiting.
_FEWER_REPLICATIONS = {"evaluation.replications": 10}
PROMPTS = (
    "The first person pushes the second person, who stumbles backwards.",
    "The second person bows to the first person.",
    "Two people walk towards each other and shake hands.",
    "The first person kicks and the second person blocks the kick.",
)


def demo(out: Path, *, count: int = _COUNT, overrides: Mapping[str, Any] | None = None) -> None:
    """Run everything and say where it is.

    Args:
        out: folder of all that is made; must not exist, or be empty.
        count: recordings of Duet that are made.
        overrides: of the settings.

    Raises:
        UserError: ``out`` is taken, or another process works in it.
    """
    with locked(out):
        check_free(out)
        _run(out, count, settings.load("duet", overrides or {}))


def _run(out: Path, count: int, values: settings.Settings) -> None:
    site, console = Site.here(), Console()
    shards = out / "shards"
    parent = Run.start(site.tracking_uri, values.name, "demo", params=values.model_dump(mode="json"), folder=out)
    label = RunLabel(parent=parent.id)
    # Each step shows its own progress and nothing else does then: a terminal has room for one display.
    with parent, ray_session(values.workers):
        console.print("[1/6] Duet, the embedded data set, to shards")
        source = SourceConfig(format="duet", root=out / "duet", count=count)
        with Stages() as stages:
            preprocess(PreprocessRequest("duet", source, values.data.encoder, shards, site).checked(), stages)
        console.print("[2/6] Causal-Skeletal VAE: motion to latents and back")
        vae = TrainRequest("vae", values, dataset=shards, out=out / "vae", site=site, label=label)
        train(vae.checked())
        console.print("[3/6] Denoiser with its mixture of experts: text to latents")
        denoiser = replace(vae, target="denoiser", out=out / "denoiser", vae=out / "vae")
        train(denoiser.checked())
        console.print("[4/6] From prompts to motions")
        model = InterMoE.load(out / "denoiser")
        request = GenerateRequest(
            PROMPTS, out / "motions", seconds=_SECONDS, seed=values.seed, routing_map=True, page=True
        ).checked()
        with Stages() as stages:
            files = generate(model, request, stages)
        for file in files:
            parent.log_artifact(file, "motions")
        shares = _inside(model, shards, [Motion.load(file).joints for file in files if file.suffix == ".npz"])
        parent.log_metrics({f"inside_data_range/{name}": share for name, share in shares.items()}, 0)
        console.print("[5/6] Evaluator: which caption belongs to which motion")
        train(replace(vae, target="evaluator", out=out / "evaluator").checked())
        console.print("[6/6] Evaluation: the model beside recorded motion, and beside itself before training")
        evaluation = EvaluateRequest(
            out / "denoiser",
            out=out / "evaluation",
            site=site,
            dataset=shards,
            evaluator=out / "evaluator",
            overrides=_FEWER_REPLICATIONS,
            label=label,
        )
        with Stages() as stages:
            results = evaluate(evaluation.checked(), progress=stages)
        strips = [f"motions/{file.name}" for file in files if file.suffix == ".png" and ".routing" not in file.name]
        pictures = map(parent.picture, strips)
        parent.describe("\n\n".join(["The whole pipeline on Duet, small.", description(results), *pictures]))
    console.print(terminal_table(results))
    _show(console, shares, [file for file in files if file.suffix == ".mp4"])
    console.print(f"All of them in 3D, with their experts: {out / 'motions' / PAGE}", highlight=False, soft_wrap=True)
    console.print(f"The table with its plot: {out / 'evaluation' / 'results.html'}", highlight=False, soft_wrap=True)
    console.print("Runs, curves, files and checkpoints: `make ui` (or `intermoe ui`), then open the address it prints.")


def _inside(model: InterMoE, dataset: Path, motions: list[Joints]) -> dict[str, float]:
    """Share of generated frames inside the range of the training split, both in the canonical frame."""
    folder = DatasetFolder.open(dataset)
    recorded = []
    for row in range(len(folder.index("train").ids)):
        motion = folder.recording("train", row)
        batch = interactions([motion], [UNDRAWN], model.skeleton, motion.frames)
        recorded.append(joints_from_features(batch.features_BTPF[0], model.skeleton).numpy())
    return Range.of(recorded, model.skeleton).share_inside(motions, model.skeleton)


def _show(console: Console, shares: dict[str, float], videos: list[Place]) -> None:
    table = Table(title="Generated frames inside the 1st to 99th percentile of the data")
    table.add_column("measure")
    table.add_column("share", justify="right")
    for name, share in shares.items():
        table.add_row(name.replace("_", " "), f"{share:.1%}")
    console.print(table)
    console.print("Videos, each with its GLB, BVH, npz, key frames and routing map beside it:")
    for video in videos:
        console.print(f"  {video}", highlight=False, soft_wrap=True)
