"""The folder of a sweep with one trained and evaluated trial, made without training, and an MLflow that takes notes."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from mlflow.exceptions import MlflowException
from small_model import CONFIG, WordEncoder, small_evaluator
from toy_shards import write_shards

from intermoe import checkpoint
from intermoe.files import write_note
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.moe.selection import LayerRouting
from intermoe.places import Place
from pipelines import settings
from pipelines.evaluate.results import Results, publish, replications_frame
from pipelines.settings import Settings, flatten
from pipelines.tracking.spool import Spool
from pipelines.train.routing_history import RoutingHistory
from pipelines.train.run_folder import note_run, run_identity

RUN, SWEEP = "1" * 32, "2" * 32
"""Ids of the runs in MLflow: of the denoiser and of the sweep."""
STORE = "http://mlflow.example"
TRIAL = "trials/aaa"
_ABOUT = {
    "name": "toy",
    "split": "test",
    "recordings": 4,
    "seed": 0,
    "sampler": "ddim",
    "sampler_steps": 50,
    "spacing": None,
    "guidance": 1.0,
    "guidance_interval": [0.0, 1.0],
    "evaluation": {"replications": 1, "pool": 2, "diversity_pairs": 2, "multimodality": {"captions": 0}},
    "scales": {"fid": 6.0, "diversity": 3.0, "multimodality": 1.0},
}


class NotingMlflow:
    """Stands in for MLflow's client: knows two runs, and notes what is written to them.

    Attributes:
        written: each call by its name, with the bytes of the files that it was given.
    """

    def __init__(self) -> None:
        self.written: list[tuple[str, tuple[Any, ...]]] = []

    def __call__(self, _uri: str) -> "NotingMlflow":
        return self

    def get_run(self, run_id: str) -> Any:
        if run_id not in (RUN, SWEEP):
            raise MlflowException("no such run", error_code=5)
        data = SimpleNamespace(metrics={"loss/train": 1.0, "train/samples_per_second": 3.0}, _metric_objs=[])
        return SimpleNamespace(data=data, info=SimpleNamespace(run_id=run_id, experiment_id="1", run_name="r"))

    def create_run(self, _experiment_id: str, **_named: Any) -> Any:
        return self.get_run(SWEEP)

    def search_runs(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def get_experiment_by_name(self, _name: str) -> Any:
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def get_metric_history(self, _run_id: str, _name: str) -> list[Any]:
        return [SimpleNamespace(step=step, value=1.0 + step) for step in (10, 20)]

    def log_batch(self, run_id: str, metrics: Any = (), **_named: Any) -> None:
        self.written.append(("log_batch", (run_id, [(m.key, m.value, m.step) for m in metrics])))

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **_named: Any) -> None:
            read = tuple(
                Path(argument).read_bytes() if isinstance(argument, str) and argument.startswith("/") else argument
                for argument in arguments
            )
            self.written.append((name, read))

        return note


def install_mlflow(patch: pytest.MonkeyPatch) -> NotingMlflow:
    """Have all that writes to MLflow or asks it use a new ``NotingMlflow``."""
    client = NotingMlflow()
    patch.setenv("MLFLOW_TRACKING_URI", STORE)
    for module in ("queries", "runs", "writer"):
        patch.setattr(f"pipelines.tracking.{module}.MlflowClient", client)
    for module in ("queries", "runs", "sync"):
        patch.setattr(f"pipelines.tracking.{module}.check_reachable", lambda _uri: None)
    return client


def small_settings() -> Settings:
    """Settings of a network of toy size."""
    values = flatten(CONFIG) | flatten(
        {
            "evaluator": {
                "motion_width": 16,
                "motion_layers": 1,
                "motion_heads": 2,
                "motion_hidden": 16,
                "text_layers": 1,
                "text_heads": 2,
                "text_hidden": 16,
                "embedding": 8,
            },
            "evaluation": {"pool": 2, "batch_size": 2, "replications": 1},
        }
    )
    return settings.load("duet", values | {"train.denoiser.batch_size": 2, "train.vae.batch_size": 2})


def write_sweep(root: Path) -> Path:
    """Write ``sweep`` and, beside it, what it names: ``shards``, ``vae``, ``evaluator`` and ``config.yaml``."""
    write_shards(root / "shards", {"train": 3, "val": 1, "test": 4})
    values = small_settings()
    config = values.model_dump(mode="json")
    torch.manual_seed(0)
    model = InterMoE(ModelConfig.parse({name: config[name] for name in ModelConfig.model_fields}))
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    parts = {name: part.state_dict() for name, part in model.parts().items()}

    def save(folder: Place, step: int, tensors: dict[str, Any], **documents: Any) -> None:
        state = {"step": step, "target": "denoiser", "dataset": "toy"}
        checkpoint.save(folder, tensors=tensors, documents={"config": config, "state": state, **documents})

    save(root / "vae/best", 1, parts)
    judge = small_evaluator(model)
    judge_config = {"evaluator": judge.config.model_dump(mode="json"), "data": judge.data.model_dump(mode="json")}
    checkpoint.save(
        root / "evaluator/best",
        tensors={name: part.state_dict() for name, part in judge.parts().items()},
        documents={"config": judge_config, "state": {"step": 1}},
    )
    trial = root / "sweep" / TRIAL
    run = trial / "denoiser"
    save(run / "best", 20, parts)
    for step in (10, 20):
        optimizer = {"optimizer": {"step.w": torch.tensor(float(step))}}
        scaled = {name: {key: step * tensor for key, tensor in part.items()} for name, part in parts.items()}
        folder = checkpoint.step_folder(run / "checkpoints", step)
        save(folder, step, scaled | optimizer, progress={"best": 1.0 / step, "window": {}})
    identity = run_identity("denoiser", values, root / "shards", root / "vae/best")
    note_run(run, run_id=RUN, tracking_uri=STORE, data=root / "shards", identity=identity)
    history = RoutingHistory(run)
    for step in (10, 20):
        history.add(step, [LayerRouting([0.5, 0.5], [0.5, 0.5], [0.1, 0.2], "bias", 1.0, 0.25, 1.0)])
    history.save()
    _write_spool(root, Spool(run / "tracking", RUN, STORE))
    _write_outcome(root / "sweep", trial)
    return root / "sweep"


def _write_spool(root: Path, spool: Spool) -> None:
    """What was logged and is not in MLflow, but for the first line, which is."""
    (root / "picture.png").write_bytes(bytes(range(200)))
    spool.append("points", 1, step=10, values={"loss/train": 2.0, "norm": 0.5})
    (first,) = spool.entries()
    spool.note_delivered(first)
    spool.append("points", 2, step=20, values={"loss/train": 1.0, "norm": 0.25})
    spool.append("tags", 2, tags={"a": "b"})
    for folder in (None, "samples"):
        spool.append("artifact", 3, **spool.hold(root / "picture.png"), folder=folder)
        (root / "picture.png").write_bytes(bytes(range(100)))
    spool.append("status", 4, status="FINISHED")


def _write_outcome(sweep: Path, trial: Path) -> None:
    values = {row: {"fid": [number], "r_precision_top1": [0.5]} for row, number in (("recorded", 0.5), ("raw", 2.0))}
    publish(Results(replications_frame(values), _ABOUT), trial / "evaluation-1")
    outcome = {
        "run": RUN,
        "evaluation": "evaluation-1",
        "parameters": {"trainable": 2_000_000, "active": 1_000_000},
        "seconds_training": 30.0,
        "seconds_evaluating": 10.0,
    }
    write_note(trial / "trial.json", outcome)
    plan = {"key": trial.name, "name": "full-seed0", "points": ["full"], "seed": 0, "rows": [["2", "Ours"]]}
    note = {
        "name": "toy",
        "profile": "tiny",
        "run_id": SWEEP,
        "tracking_uri": STORE,
        "trials": [plan],
        "tables": {"2": {"title": "Parts", "rows": {"Ours": {"fid": [4.0, 0.1]}}}},
        "seconds_shared": {"vae": 1.0, "evaluator": 2.0},
        "failed": {},
    }
    write_note(sweep / "sweep.json", note)


class Begun(BaseException):
    """A command has read all that it reads before Ray works; what it would begin."""

    def __init__(self, job: Any) -> None:
        self.job = job


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Start no Ray for a command, write motions in one form alone, and encode text by toys."""
    for module in ("cluster.session", "demo"):
        patch.setattr(f"pipelines.{module}.ray_session", lambda *_, **__: nullcontext())
    patch.setattr("pipelines.cluster.nodes.check_nodes", lambda **_: None)
    patch.setattr("pipelines.generate.SUFFIXES", (".npz",))
    patch.setattr(InterMoE, "encoder", property(lambda _model: WordEncoder()))


def stop_before_ray(patch: pytest.MonkeyPatch) -> None:
    """Let a command end by ``Begun`` where it would have Ray work; the rest as for ``without_ray``."""
    without_ray(patch)

    def begin(job: Any, *_: Any, **__: Any) -> None:
        raise Begun(job)

    for job in ("preprocess", "train", "evaluate", "sweep"):
        patch.setattr(f"pipelines.{job}.{job}.{job}", begin)
    patch.setattr("pipelines.demo.preprocess", begin)


def all_files(folder: Path) -> Iterator[Path]:
    """The files in a folder, at any depth."""
    return (path for path in folder.rglob("*") if path.is_file())
