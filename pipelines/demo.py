"""The whole pipeline once, small, on this machine: Duet -> shards -> VAE -> denoiser -> motions -> table -> MLflow.

Legend: B batch, T frames, P = 2 persons, J joints, R = J - 1, F features of a person-frame.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from intermoe.body.features import joints_from_features
from intermoe.data.batches import interactions
from intermoe.data.draws import UNDRAWN
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.ranges import Joints, Range
from intermoe.files import is_taken
from intermoe.model import InterMoE
from intermoe.motion import Motion
from pipelines import settings
from pipelines.cluster.progress import Stages
from pipelines.cluster.session import ray_session
from pipelines.evaluate.evaluate import check_request, evaluate
from pipelines.evaluate.results import terminal_table
from pipelines.generate import generate
from pipelines.preprocess.preprocess import preprocess
from pipelines.preprocess.sources import reader_for
from pipelines.tracking.address import tracking_uri
from pipelines.tracking.runs import Run
from pipelines.train.train import Label, train

_COUNT, _SECONDS = 600, 4.0
# Half of the usual, for somebody is waiting.
_REPLICATIONS = "evaluation.replications=10"
PROMPTS = (
    "The first person pushes the second person, who stumbles backwards.",
    "The second person bows to the first person.",
    "Two people walk towards each other and shake hands.",
    "The first person kicks and the second person blocks the kick.",
)


def demo(out: Path) -> None:
    """Run everything and say where it is.

    Args:
        out: folder of all that is made; must not exist, or be empty.

    Raises:
        UserError: ``out`` is taken.
    """
    if is_taken(out):
        raise UserError("exists and is not empty", where=out, allowed="a new folder, as --out")
    values = settings.load("duet")
    console = Console()
    parent = Run.start(tracking_uri(), values.name, "demo", values.model_dump(mode="json"))
    with parent, ray_session(values.workers), Stages() as stages:
        console.print("[1/6] Duet, the embedded data set, to shards")
        with reader_for("duet", out / "duet", scratch=out, count=_COUNT) as reader:
            preprocess(reader, name="duet", out=out / "shards", encoder=values.data.encoder, progress=stages)
        console.print("[2/6] Causal-Skeletal VAE: motion to latents and back")
        label = Label(parent=parent.id)
        train("vae", values, dataset=out / "shards", out=out / "vae", label=label)
        console.print("[3/6] Denoiser with its mixture of experts: text to latents")
        train("denoiser", values, dataset=out / "shards", out=out / "denoiser", vae=out / "vae", label=label)
        console.print("[4/6] From prompts to motions")
        model = InterMoE.load(out / "denoiser")
        files = generate(
            model,
            PROMPTS,
            seconds=_SECONDS,
            seed=values.seed,
            guidance=None,
            out=out / "motions",
            progress=stages,
            routing_map=True,
        )
        for file in files:
            parent.log_artifact(file, "motions")
        shares = _inside(model, out / "shards", [Motion.load(file).joints for file in files if file.suffix == ".npz"])
        parent.log_metrics({f"inside_data_range/{name}": share for name, share in shares.items()}, 0)
        console.print("[5/6] Evaluator: which caption belongs to which motion")
        train("evaluator", values, dataset=out / "shards", out=out / "evaluator", label=label)
        console.print("[6/6] Evaluation: the model beside recorded motion, and beside itself before training")
        wanted = check_request(
            out / "denoiser", dataset=out / "shards", evaluator=out / "evaluator", overrides=[_REPLICATIONS]
        )
        results = evaluate(wanted, out=out / "evaluation", progress=stages, parent=parent.id)
    console.print(terminal_table(results))
    _show(console, shares, [file for file in files if file.suffix == ".mp4"])
    console.print(f"The table with its plot: {out / 'evaluation' / 'results.html'}", highlight=False, soft_wrap=True)
    console.print("Runs, curves, files and checkpoints: `make ui` (or `intermoe ui`), then open the address it prints.")


def _inside(model: InterMoE, dataset: Path, motions: list[Joints]) -> dict[str, float]:
    """Share of generated frames inside the range of the training split, both in the canonical frame."""
    folder = DatasetFolder.open(dataset)
    recorded = []
    for row in range(len(folder.index("train").ids)):
        motion = folder.recording("train", row)
        frames = len(motion.position_TPJ3)
        batch = interactions([motion.position_TPJ3], [motion.rotation_TPR6], [UNDRAWN], model.skeleton, frames)
        recorded.append(joints_from_features(batch.features_BTPF[0], model.skeleton).numpy())
    return Range.of(recorded, model.skeleton).share_inside(motions, model.skeleton)


def _show(console: Console, shares: dict[str, float], videos: list[Path]) -> None:
    table = Table(title="Generated frames inside the 1st to 99th percentile of the data")
    table.add_column("measure")
    table.add_column("share", justify="right")
    for name, share in shares.items():
        table.add_row(name.replace("_", " "), f"{share:.1%}")
    console.print(table)
    console.print("Videos, each with its BVH, npz, key frames and routing map beside it:")
    for video in videos:
        console.print(f"  {video}", highlight=False, soft_wrap=True)
