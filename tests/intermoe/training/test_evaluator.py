"""The objective of the evaluator that reads words, on a small data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_shards import write_shards
from word_files import write_word_files

from intermoe import checkpoint
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.contrast import margin_sums
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.evaluation.t2m import T2mConfig
from intermoe.text.words import tagged_words
from intermoe.training import TrainingStep
from intermoe.training.config import TrainingConfig
from intermoe.training.evaluator import EvaluatorObjective, evaluator_objective
from intermoe.training.objective import Diagnostics

DATA = DataConfig(encoder="minilm", max_frames=60)
SIZES = {"word_width": 5, "movement_width": 8, "motion_hidden": 8, "text_hidden": 8, "embedding": 4, "max_words": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 12, "val": 6})


@pytest.fixture
def make(folder: DatasetFolder) -> Callable[..., EvaluatorObjective]:
    def make(text_folder: Path | None = None, **sizes: Any) -> EvaluatorObjective:
        config = EvaluatorConfig(kind="t2m", t2m=T2mConfig.parse({"vectors": "learned", **SIZES, **sizes}))
        training = TrainingConfig(epochs=20, batch_size=6, learning_rate=5e-3, warmup_epochs=1)
        return evaluator_objective(config, DATA, training, folder, seed=1, pool=4, text_folder=text_folder)

    return make


def test_the_losses_are_those_of_captions_and_motions(make, folder):
    objective = make().eval()
    batch = objective.stream(folder).batch(0)
    with torch.no_grad():
        found = objective(batch)
        words = objective.model.words([tagged_words(folder.texts()[row]) for row in batch["caption"].tolist()])
        text, motion = (
            objective.model.embed_text(words),
            objective.model.embed_motion(batch["features"], batch["frames"]),
        )
    together, apart = margin_sums(text, motion, 10.0)
    torch.testing.assert_close(found, {"together": together, "apart": apart})
    assert objective.weights == {"together": 1.0, "apart": 1.0}
    assert objective.pop_diagnostics() == Diagnostics()


def test_a_learned_vocabulary_is_that_of_the_training_captions(make, folder):
    rows = [row for header in folder.headers("train") for row in (*header.captions, *header.swapped)]
    texts = folder.texts()
    words = {token.rpartition("/")[0] for row in rows for token in tagged_words(texts[row]).split()}
    assert set(make().model.vocabulary.words) == words | {"sos", "eos", "unk"}
    # Those of the captions that are held out alone are not known.
    everything = {token.rpartition("/")[0] for text in texts for token in tagged_words(text).split()}
    assert everything - words


def test_words_that_the_data_set_has_are_read_instead_of_its_texts(make, folder, monkeypatch):
    given = ["bow/NOUN left/ADJ" if row == 0 else "" for row in range(folder.card.captions)]
    monkeypatch.setattr(DatasetFolder, "words", lambda self: given)
    objective = make(vectors="learned")
    expected = objective.model.words([given[0]])
    assert torch.equal(objective._captions[0][0], expected.word_BK[0])
    assert torch.equal(objective._captions[2][:1], expected.length_B)


def test_training_lowers_the_loss_and_goes_on_from_a_checkpoint(make, folder, tmp_path):
    objective = make()
    stream = objective.stream(folder)
    take_step = TrainingStep(objective, stream)
    losses = [take_step(step, stream.batch(step)).loss for step in range(take_step.num_steps)]
    assert take_step.num_steps == 40
    assert losses[-1] < 0.75 * losses[0]
    found = objective.validate(stream.held_out("val").held_out_batches(), lambda value: [value])
    assert set(found) == {"retrieval_error", "mm_dist", *(f"r_precision_top{place}" for place in (1, 2, 3))}

    model = objective.model
    config = {"evaluator": model.config.model_dump(mode="json"), "data": DATA.model_dump(mode="json")}
    tensors = {name: part.state_dict() for name, part in model.parts().items()}
    checkpoint.save(tmp_path / "best", tensors=tensors, documents={"config": config})
    loaded, again = Evaluator.load(tmp_path), make()
    again.model.restore(checkpoint.load(tmp_path / "best"), again.saved)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
        assert torch.equal(again.model.state_dict()[name], value)


def test_given_vectors_are_those_of_the_folder_and_stay(make, folder, tmp_path):
    table = write_word_files(tmp_path, width=5)
    objective = make(tmp_path, vectors="given")
    vectors = torch.tensor(table[::-1].copy(), dtype=torch.float32)
    assert torch.equal(objective.model.text.word_VW, vectors)
    stream = objective.stream(folder)
    TrainingStep(objective, stream)(0, stream.batch(0))
    assert torch.equal(objective.model.text.word_VW, vectors)


def test_what_is_wrong_with_the_vectors_is_one_line(make, tmp_path):
    with pytest.raises(UserError) as caught:
        make(vectors="given")
    assert str(caught.value) == (
        "evaluator.t2m.vectors = 'given' without word vectors (allowed: --word-vectors, the folder of "
        "T2M's our_vab_data.npy and what belongs to it, or learned)"
    )
    write_word_files(tmp_path, width=6)
    with pytest.raises(UserError) as caught:
        make(tmp_path, vectors="given")
    assert str(caught.value) == (
        f"{tmp_path}/our_vab_data.npy: numbers of the shape (6, 6) (allowed: (words, 5), as "
        "evaluator.t2m.word_width says)"
    )
