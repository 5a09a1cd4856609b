"""Duet in the layout of Inter-X becomes shards that the networks of the preset ``interx`` train on; without Ray."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from toy_shards import caption_states
from word_files import write_word_files

from intermoe import checkpoint
from intermoe.data.card import DatasetCard
from intermoe.data.shards import DatasetFolder
from intermoe.datasets.duet import make_interaction
from intermoe.errors import UserError
from intermoe.evaluation.t2m import MotionReader
from intermoe.model_config import VAE_PARTS
from intermoe.text.encoders import TextStates
from intermoe.training.evaluator import EvaluatorObjective
from intermoe.training.step import TrainingStep
from pipelines import settings
from pipelines.cli import main
from pipelines.preprocess import preprocess, tasks
from pipelines.site import Site
from pipelines.train.objectives import build

SMALL = """
data.encoder=minilm data.persons=named vae.width=8 vae.latent=4 vae.blocks=1 moe.experts=4 moe.hidden=16
denoiser.width=32 denoiser.layers=2 denoiser.heads=4
denoiser.text_layers=1 denoiser.text_hidden=32 denoiser.text_heads=4
train.vae.batch_size=4 train.vae.learning_rate=0.003 train.vae.warmup_epochs=0
train.denoiser.batch_size=4 train.denoiser.learning_rate=0.003 train.denoiser.warmup_epochs=0
train.evaluator.batch_size=4 train.evaluator.learning_rate=0.02 train.evaluator.warmup_epochs=0
evaluator.t2m.word_width=8 evaluator.t2m.movement_width=16 evaluator.t2m.motion_hidden=16
evaluator.t2m.text_hidden=16 evaluator.t2m.embedding=8 evaluator.t2m.margin=1
"""


def run_here(stage, task, jobs, items, progress, *, num_gpus=0):
    """Each job in this process; it and its result pass as JSON, as they do in a cluster."""
    return [json.loads(json.dumps(task(json.loads(json.dumps(job))))) for job in jobs]


class MadeUpEncoder:
    """States of noise, so that no test waits for a network."""

    name, width, sha256 = "minilm", 384, "0" * 64

    def encode(self, texts):
        states = torch.from_numpy(np.stack([caption_states(text, self.width) for text in texts]))
        return TextStates(states, torch.ones(states.shape[:2], dtype=torch.bool), torch.full((len(texts),), 2))

    def left_out(self, text):
        return ""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Made by the command, with Ray's part in this process."""
    out = tmp_path_factory.mktemp("duet") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.cluster.session.ray_session", nullcontext)
        patch.setattr("pipelines.cluster.nodes.check_nodes", lambda **_: None)
        patch.setattr("ray.cluster_resources", dict)
        patch.setattr(preprocess, "_stream", run_here)
        for module, name in ((preprocess, "load_encoder"), (tasks, "_loaded")):
            patch.setattr(module, name, lambda *_: MadeUpEncoder())
        words = ["--layout", "interx", "--count", "12", "--seed", "2", "--out", str(out)]
        assert main(["preprocess", "duet", *words]) == 0
    assert [path.name for path in out.parent.iterdir() if not path.name.endswith(".lock")] == ["shards"]
    return DatasetFolder.open(out)


def test_shards_have_55_joints_and_names_that_hold(shards):
    card = shards.card
    assert (card.reader, card.skeleton, card.quarantined, card.noted) == ("InterXReader", "smplx55", 0, 0)
    assert card.recordings == {"train": 10, "val": 1, "test": 1}
    actors = {name: make_interaction(2, int(name[:6])).label["actor"] for name in shards.index("train").ids}
    assert {header.id: header.label for header in shards.headers("train")} == {
        name: {"actor": actor} for name, actor in actors.items()
    }
    assert set(actors.values()) == {0, 1}
    shards.check_persons("named")


def losses_on_one_batch(objective, shards):
    stream = objective.stream(shards)
    take_step, batch = TrainingStep(objective, stream), stream.batch(0)
    return [take_step(step, batch).loss for step in range(10)]


def test_the_networks_of_the_preset_interx_train_on_them(shards, tmp_path):
    values = settings.load("interx", settings.parse_overrides(SMALL.split()))
    vae = build("vae", values, shards, vae=None, site=Site(""))
    losses = losses_on_one_batch(vae, shards)
    assert losses[-1] < 0.9 * losses[0]
    tensors = {part: module.state_dict() for part, module in vae.model.parts().items() if part in VAE_PARTS}
    checkpoint.save(tmp_path / "vae", tensors=tensors, documents={"config": values.model_dump(mode="json")})
    denoiser = build("denoiser", values, shards, vae=tmp_path / "vae", site=Site(""))
    losses = losses_on_one_batch(denoiser, shards)
    assert losses[-1] < 0.9 * losses[0]
    write_word_files(tmp_path / "glove", width=8, stem="hhi_vab")
    evaluator = build("evaluator", values, shards, vae=None, site=Site("", word_vectors=tmp_path / "glove"))
    assert isinstance(evaluator, EvaluatorObjective)
    assert isinstance(evaluator.model.motion, MotionReader)
    assert evaluator.model.motion.movement.first.in_channels == 2 * (3 * 55 + 3 * 55 + 6 * 54)
    losses = losses_on_one_batch(evaluator, shards)
    assert losses[-1] < 0.9 * losses[0]


def test_names_that_may_mean_either_person_are_not_trained_on(shards):
    card = shards.card.model_copy(update={"names_persons": False})
    folder = DatasetFolder(shards.path, card)
    folder.check_persons("drawn")
    with pytest.raises(UserError) as caught:
        folder.check_persons("named")
    assert str(caught.value) == (
        f"{shards.path}: data.persons is 'named', but the first person of its captions may be either of the two "
        "(allowed: data.persons=drawn)"
    )


@pytest.mark.parametrize(("reader", "names_persons"), [("InterXReader", False), ("InterHumanReader", True)])
def test_a_card_that_does_not_tell_is_known_by_its_reader(shards, reader, names_persons):
    values = shards.card.model_dump(mode="json", exclude={"names_persons"})
    assert DatasetCard.parse(values | {"reader": reader}).names_persons == names_persons
