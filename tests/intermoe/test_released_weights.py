"""Published files: the goldens under the published names give the golden outputs; what does not fit is refused."""

import importlib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from published_files import JUDGE, SMALL, evaluator_file, small_files, text_head, write, write_stats
from torch import Tensor, nn

from intermoe.config import Config
from intermoe.data.shards import DataConfig
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.moe.config import MoeConfig
from intermoe.released_weights.evaluators import evaluator_parts
from intermoe.released_weights.generator import generator_parts
from intermoe.released_weights.published_file import read

State = dict[str, Tensor]


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    return write_stats(tmp_path)


def load(parts: dict[str, State], config: ModelConfig) -> InterMoE:
    model = InterMoE(config).eval()
    for name, state in parts.items():
        model.get_submodule(name).load_state_dict(state)
    return model


def test_goldens_under_the_published_names_give_the_golden_outputs(golden: Path, tmp_path: Path, stats: Path):
    denoiser = torch.load(golden / "denoiser.pt", weights_only=True)
    vae = torch.load(golden / "vae_interhuman.pt", weights_only=True)
    state = {f"model.denoiser.net.{key}": value for key, value in denoiser["state_dict"].items()}
    state |= {f"model.{key}": value for key, value in text_head().items()}
    parts = generator_parts(
        SMALL,
        denoiser=write(tmp_path / "d.ckpt", state),
        vae=write(tmp_path / "v.ckpt", {f"vae.{key}": value for key, value in vae["state_dict"].items()}),
        stats=stats,
    )
    model = load(parts, SMALL)
    mask_BL = denoiser["mask"][..., 0].bool()
    with torch.no_grad():
        found = model.denoiser(denoiser["x"].unflatten(-1, (2, 224)), denoiser["t"], denoiser["cond"], mask_BL)
        posterior, decoded = model.vae.encode(vae["x"]), model.vae.decode(vae["z_in"])
    expected = denoiser["out"].unflatten(-1, (2, 224))
    torch.testing.assert_close(found[mask_BL], expected[mask_BL], atol=1e-5, rtol=0)
    assert not found[~mask_BL].any()
    torch.testing.assert_close(posterior.mean_BLNC, vae["mu"], atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded, vae["dec"], atol=1e-5, rtol=0)


def test_the_text_head_is_the_published_one_and_attends_to_the_tokens_that_fill_up(tmp_path: Path, stats: Path):
    files = small_files(tmp_path)
    model = load(generator_parts(SMALL, stats=stats, **files), SMALL)
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(768, 8, 16, 0.1, activation="gelu", batch_first=True)
    published, norm = nn.TransformerEncoder(layer, 1).eval(), nn.LayerNorm(768)
    states, eot = torch.randn(2, 77, 768), torch.tensor([5, 9])
    with torch.no_grad():
        wanted = norm(published(states))[torch.arange(2), eot]  # no mask of padding, as published
        found = model.text_head(states, torch.ones(2, 77, dtype=torch.bool), eot)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_every_weight_comes_through_and_the_statistics_as_they_are(tmp_path: Path, stats: Path):
    parts = generator_parts(SMALL, stats=stats, **small_files(tmp_path))
    torch.manual_seed(0)
    model = InterMoE(SMALL)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for name in ("vae", "denoiser"):
        for key, value in model.get_submodule(name).state_dict().items():
            if "selection" not in key:
                torch.testing.assert_close(parts[name][key], value, msg=key)
    torch.testing.assert_close(
        parts["denoiser"]["layers.1.feed_forward.selection.bias_E"], torch.tensor([-0.3, -0.4, -0.5, -0.7])
    )
    # Not as our own statistics, where a tiny deviation counts as 1.
    assert torch.equal(parts["normaliser"]["std_F"], torch.from_numpy(np.load(stats / "std.npy")))
    assert parts["normaliser"]["std_F"].min() < 1e-3


@pytest.mark.parametrize(("module", "name"), [("shutil", "copyfile"), ("os", "link")])
def test_nothing_in_a_file_is_executed(tmp_path: Path, module: str, name: str):
    """What would copy a file as it is read becomes an empty shell, or, where torch knows it as evil, is refused."""
    (tmp_path / "bait").write_text("here")

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return (getattr(importlib.import_module(module), name), (str(tmp_path / "bait"), str(tmp_path / "sprung")))

    file = write(tmp_path / "trap.ckpt", {"a": torch.ones(2)}, hyper_parameters=Trap())
    if module == "os":
        with pytest.raises(UserError, match="holds instructions that are not executed"):
            read(file)
    else:
        assert read(file).keys() == {"a"}
    assert not (tmp_path / "sprung").exists()


def change(file: Path, alter: Callable[[State], None]) -> None:
    state = read(file)
    alter(state)
    write(file, state)


@pytest.mark.parametrize(
    ("which", "alter", "message"),
    [
        ("denoiser", lambda s: s.update({"model.extra": torch.ones(1)}), "unexpected key 'model.extra'"),
        (
            "denoiser",
            lambda s: s.update({"model.denoiser.net.blocks.2.x": torch.ones(1)}),
            "unexpected key 'blocks.2.x'",
        ),
        ("denoiser", lambda s: s.pop("model.clip_ln.weight"), "lacks the key 'clip_ln.weight'"),
        (
            "denoiser",
            lambda s: s.pop("model.denoiser.net.blocks.1.ffn.aux_bias"),
            "lacks the key 'blocks.1.ffn.aux_bias'",
        ),
        (
            "denoiser",
            lambda s: s.update({"model.denoiser.net.text_embed.weight": torch.ones(16, 768)}),
            r"'text_embed.weight' has the shape \(16, 768\) \(allowed: \(32, 768\), as in the config\)",
        ),
        (
            "denoiser",
            lambda s: s["model.denoiser.net.sequence_pos_encoder.pe"].add_(1),
            "is another encoding of positions than here",
        ),
        ("denoiser", lambda s: s["model.vae.dist.bias"].add_(1), "holds another VAE than the file of the VAE"),
        (
            "denoiser",
            lambda s: s["model.clip_ln.bias"].fill_(float("nan")),
            "'model.clip_ln.bias' holds numbers that are",
        ),
        ("vae", lambda s: s.pop("model.dist.weight"), "lacks the key 'dist.weight'"),
        ("vae", lambda s: s["model.conv_enc.layers.0.0.layers.2.adj_matrix"].fill_(1), "is another skeleton than here"),
    ],
)
def test_what_is_not_expected_is_refused_by_its_name(tmp_path, stats, which, alter, message):
    files = small_files(tmp_path)
    change(files[which], alter)
    with pytest.raises(UserError, match=message):
        generator_parts(SMALL, stats=stats, **files)


def test_damaged_files_are_refused(tmp_path: Path, stats: Path):
    files = small_files(tmp_path)
    whole = files["denoiser"].read_bytes()
    for bad in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        files["denoiser"].write_bytes(bad)
        with pytest.raises(UserError, match=r"denoiser\.ckpt: (cannot be read|is damaged)"):
            generator_parts(SMALL, stats=stats, **files)
    torch.save([1, 2], files["denoiser"])
    with pytest.raises(UserError, match="holds no state_dict"):
        read(files["denoiser"])
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_pickle_that_is_cut_within_its_archive_is_refused(tmp_path: Path, length: int):
    """Cut where an instruction, its argument, or the length of a text is due."""
    file = write(tmp_path / "a.ckpt", {"a": torch.ones(2)})
    with ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[:length] if name.endswith("data.pkl") else content)
    with pytest.raises(UserError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: cannot be read: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.ones(5), r"shape \(5,\) \(allowed: \(262,\)"), (np.zeros(262), "feature 0 is 0"), (None, "holds no std.npy")],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, stats, values, message):
    (stats / "std.npy").unlink()
    if values is not None:
        np.save(stats / "std.npy", values)
    with pytest.raises(UserError, match=message):
        generator_parts(SMALL, stats=stats, **small_files(tmp_path))


def test_only_the_published_network_can_be_read(tmp_path, stats):
    config = SMALL.model_copy(update={"moe": MoeConfig(experts=4, hidden=64, selection="dense")})
    with pytest.raises(UserError, match=r"moe\.selection = 'dense'"):
        generator_parts(config, stats=stats, **small_files(tmp_path))
    for key in ("person_embedding", "person_conditioning"):
        persons = SMALL.model_copy(update={"denoiser": SMALL.denoiser.model_copy(update={key: True})})
        with pytest.raises(UserError, match=rf"denoiser\.{key} = True \(allowed: false"):
            generator_parts(persons, stats=stats, **small_files(tmp_path))


def test_the_evaluator_is_read_and_embeds_as_the_published_one(tmp_path: Path):
    file, published = evaluator_file(tmp_path / "interclip.ckpt")
    data = DataConfig(encoder="clip")
    parts = evaluator_parts(JUDGE, data, file=file)
    evaluator = Evaluator(JUDGE, data).eval()
    evaluator.load_state_dict(parts["evaluator"])
    features, frames = torch.randn(3, 20, 2, 262), torch.tensor([20, 7, 13])
    ids, eot = torch.randint(11, (3, 77)), torch.tensor([4, 76, 20])
    with torch.no_grad():
        motion = evaluator.embed_motion(features, frames)
        text = evaluator.embed_text(evaluator.token_states(ids, eot))
        for row in range(3):
            torch.testing.assert_close(motion[row], published.motion(features[row, : frames[row]]), atol=1e-5, rtol=0)
            torch.testing.assert_close(text[row], published.text(ids[row], int(eot[row])), atol=1e-5, rtol=0)
    assert motion.norm(dim=-1).tolist() == pytest.approx([2.5] * 3)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda s: s.update({"model.more": torch.ones(1)}), "unexpected key 'model.more'"),
        (lambda s: s.pop("model.text_ln.bias"), "lacks the key 'text_ln.bias'"),
        (lambda s: s.update({"model.latent_scale": torch.ones(2)}), r"has the shape \(2,\) \(allowed: \(1,\)"),
    ],
)
def test_an_evaluator_with_other_keys_is_refused(tmp_path, alter, message):
    file, _ = evaluator_file(tmp_path / "c.ckpt")
    change(file, alter)
    with pytest.raises(UserError, match=message):
        evaluator_parts(JUDGE, DataConfig(encoder="clip"), file=file)


def test_configs_are_strict():
    assert issubclass(EvaluatorConfig, Config)
    with pytest.raises(UserError, match=r"evaluator\.text or evaluator\.normalised"):
        evaluator_parts(JUDGE.model_copy(update={"normalised": True}), DataConfig(), file=Path("absent"))
