import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

from intermoe.data.shards import DataConfig
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import Evaluator, EvaluatorConfig
from intermoe.layers.stored_weights import check_fit


class Network(nn.Module):
    """One layer, and a constant worked out from the tensors that PyTorch offers for that."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        places = nn.functional.one_hot(torch.arange(4), 4) + torch.eye(4) / torch.ones(4).sum()
        self.layer.register_buffer("places", places)
        self.layer.register_buffer("table", torch.empty(width, width).zero_())

    def parts(self):
        return {"network": self.layer}


def test_the_weights_of_the_network_fit():
    check_fit(lambda: Network(3), {"network": Network(3).layer.state_dict()}, where="run")


@pytest.mark.parametrize("width", [2, 10**7])
def test_a_network_that_no_memory_holds_is_found_not_to_fit_like_any_other(width):
    with pytest.raises(UserError) as caught:
        check_fit(lambda: Network(width), {"network": Network(3).layer.state_dict()}, where="run")
    assert str(caught.value) == "run: the weights do not fit the config beside them"


def test_what_is_found_out_takes_no_compiler():
    """Its import takes a second, of every command that loads a model."""
    lines = (
        "import sys",
        "from intermoe.errors import UserError; from intermoe.layers.stored_weights import check_fit",
        "from intermoe.model import InterMoE; from intermoe.model_config import ModelConfig",
        "try: check_fit(lambda: InterMoE(ModelConfig()), {'vae': {}}, where='run')",
        "except UserError: print('torch._dynamo' in sys.modules)",
    )
    answer = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_the_largest_table_of_an_evaluator_takes_no_memory_before_it_is_found_not_to_fit():
    config = EvaluatorConfig(text="tokens", vocabulary=1_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="the weights do not fit the config beside them"):
        check_fit(lambda: Evaluator(config, DataConfig()), {"evaluator": {}}, where="run")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
