"""Between two logged steps the host never waits for the device, and launches little.

Without a GPU: the forms that run on one are chosen (``runs_ahead``), and what would wait there is told by its name.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from small_training import made_up_batch, stream
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from intermoe.diffusion.guidance import guided
from intermoe.diffusion.schedule import DiffusionConfig
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.training.config import DenoiserTrainingConfig, VaeTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.objective import HOST_FRAMES
from intermoe.training.step import TrainingStep
from intermoe.training.vae import VaeObjective

# What is on the host, so that nothing waits for it.
ON_HOST = (HOST_FRAMES,)

WAITING_CALLS = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")
WAITING_OPS = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "_unique2",
)
INTERHUMAN: dict[str, Any] = {
    "data": {"encoder": "minilm", "max_frames": 62},
    "vae": {"width": 8, "latent": 4, "blocks": 1},
    # As preset interhuman but for the widths. Without dropout attention is one kernel on a CPU too.
    "denoiser": {"width": 32, "heads": 4, "text_hidden": 32, "text_heads": 4, "dropout": 0.0},
    "moe": {"hidden": 16},
}


class Calls(TorchFunctionMode):
    """Notes calls on tensors that wait for the device."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.waits: list[tuple[str, str]] = []
        self._columns = {tensor.untyped_storage().data_ptr(): name for name, tensor in columns.items()}

    def __torch_function__(self, call: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(call, "__name__", "")
        if name in WAITING_CALLS or (name == "to" and "cpu" in args[1:]):
            column = self._columns.get(args[0].untyped_storage().data_ptr(), "")
            if column not in ON_HOST:
                self.waits.append((name, column))
        return call(*args, **(kwargs or {}))


class Ops(TorchDispatchMode):
    """Counts what launches, and notes what waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.__name__.split(".")[0]
        is_view = any(r.alias_info and not r.alias_info.is_write for r in op._schema.returns)
        if op.namespace == "aten" and not is_view and name not in ("detach", "_unsafe_view"):
            self.launches[name] += 1
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING_OPS or by_mask:
            self.waits.append(name)
        return op(*args, **(kwargs or {}))


PLUS: dict[str, dict[str, object]] = {
    "denoiser": {"person_embedding": True, "person_conditioning": True},
    "diffusion": {"difference_loss": 4.0, "target": "mean", "error": "decoded", "hand_contact_loss": 0.1},
}


RIVALS: dict[str, dict[str, object]] = {name: {"network": name} for name in ("intergen", "timotion")}
# Of one person: as published, and with experts.
ONE_PERSON: dict[str, dict[str, Any]] = {
    f"{network}-{selection}": {
        "network": network,
        "data": {"skeleton": "humanml22", "max_frames": 32},
        "mld_vae": {"width": 32, "layers": 3, "hidden": 16, "dropout": 0.0},
        "denoiser": {"layers": 5},
        "moe": {"selection": selection},
        "diffusion": {"schedule": "scaled_linear", "prediction": prediction},
    }
    for network, prediction in {"mdm": "x0", "mld": "noise", "salad": "v"}.items()
    for selection in ("dense", "dynamic")
}
# Of a training step and of a guided step of sampling. The losses of the motion are launches too, and TIMotion's layers
# have convolutions besides.
LAUNCHES = {
    "intermoe": (1500, 500),
    "intergen": (1750, 500),
    "timotion": (1900, 600),
    "mdm": (800, 300),
    "mld": (850, 260),
    "salad": (1550, 500),
}


def config_with(changes: Mapping[str, Any]) -> ModelConfig:
    """The config of the networks with changes of sections, and of the network."""
    values: dict[str, Any] = {"network": "intermoe", **INTERHUMAN}
    for key, change in changes.items():
        values[key] = {**values.get(key, {}), **change} if isinstance(change, dict) else change
    return ModelConfig.parse(values)


@pytest.fixture(params=[{}, PLUS, *RIVALS.values(), *ONE_PERSON.values()], ids=["paper", "plus", *RIVALS, *ONE_PERSON])
def objective(request: pytest.FixtureRequest) -> DenoiserObjective:
    torch.manual_seed(0)
    model = InterMoE(config_with(request.param))
    for parameter in model.denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    training = DenoiserTrainingConfig(epochs=10, batch_size=4, warmup_epochs=0.5)
    if model.config.network in RIVALS:
        training = training.model_copy(update={"clip_norm": 0.5})
    objective = DenoiserObjective(model, training, runs_ahead=True)
    if model.denoiser.error_root_ZZ is not None:
        objective.learn_metric(made_up_batch(0))
    return objective


def test_the_watch_sees_what_waits() -> None:
    column = torch.arange(3)
    with Calls({"frames": column}) as calls, Ops() as ops:
        assert column[1:].tolist() == [1, 2]
        assert bool(column[0] == 0)
        column[column > 1] = 0
        column.nonzero()
    assert calls.waits == [("tolist", "frames"), ("__bool__", "")]
    assert ops.waits == ["_local_scalar_dense", "index_put_", "nonzero"]


def test_a_training_step_waits_for_nothing_and_launches_little(objective: DenoiserObjective) -> None:
    take_step = TrainingStep(objective, stream(), read_every=10)
    network = objective.model.config.network
    take_step(0, made_up_batch(0, network=network))
    for step in (1, 2):
        batch = made_up_batch(step, network=network)
        batch[HOST_FRAMES] = batch["frames"].clone()
        with Calls(batch) as calls, Ops() as ops:
            outcome = take_step(step, batch)
        assert not outcome.is_read
        assert calls.waits == []
        assert ops.waits == []
        more = 75 if objective.model.denoiser.contact_head else 0
        assert ops.launches.total() < LAUNCHES[network][0] + more, ops.launches.most_common()
    assert outcome.is_finite


@pytest.mark.parametrize("network", ["intermoe", "mld-dense", "salad-dense"])
def test_a_training_step_of_a_vae_waits_for_nothing(network: str) -> None:
    torch.manual_seed(0)
    model = InterMoE(config_with(ONE_PERSON.get(network, {})))
    config = VaeTrainingConfig(epochs=10, batch_size=4, warmup_epochs=0.5)
    take_step = TrainingStep(VaeObjective(model, config), stream(), read_every=10)
    for step in range(3):
        whole = made_up_batch(step, network=model.config.network)
        batch = {name: whole[name] for name in ("frames", "seed", "item")}
        batch |= {name: whole[name][:, :, 0].contiguous() for name in ("features", "latent_noise")}
        with Calls(batch) as calls, Ops() as ops:
            outcome = take_step(step, batch)
        # The first is read at once.
        if step > 0:
            assert (outcome.is_read, calls.waits, ops.waits) == (False, [], [])
    assert outcome.is_finite


@torch.no_grad()
def test_a_guided_sampling_step_waits_for_nothing(objective: DenoiserObjective) -> None:
    model, denoiser = objective.model, objective.model.denoiser.eval()
    mask = torch.arange(12) < torch.tensor([12, 7])[:, None]
    if model.config.network == "mld":
        mask = torch.ones(2, 1, dtype=torch.bool)
    condition = torch.randn(2, *((6,) if denoiser.reads == "words" else ()), 384)
    denoise = guided(denoiser.of_batch(mask), condition, mask, DiffusionConfig(guidance=2.0))
    noise = torch.randn(*mask.shape, model.skeleton.num_persons, model.latent)
    with Calls({}) as calls, Ops() as ops:
        sampled = denoise(noise, 500)
    assert calls.waits == []
    assert ops.waits == []
    assert ops.launches.total() < LAUNCHES[objective.model.config.network][1], ops.launches.most_common()
    denoiser.run_ahead(None)
    expected = guided(denoiser, condition, mask, DiffusionConfig(guidance=2.0))(noise, 500)
    # TIMotion's residual stream doubles in each layer, and what is rounded with it.
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(sampled, expected, rtol=1e-5, atol=1e-5 * scale)
