"""The order of the skips, how weights start, and dropout; values are tested with the networks made of it."""

import math

import pytest
import torch
from torch import Tensor, nn

from intermoe.layers.skip_transformer import (
    FeedForward,
    PostNormLayer,
    SkipTransformer,
    learned_places,
    xavier_attention,
)


def layer_of(
    width: int, hidden: int, heads: int, *, dropout: float = 0.0, inside: float = 0.0, reads_memory: bool = False
) -> PostNormLayer:
    """With so much dropout of attention and of what is added, and inside the network."""
    attention, memory_attention = (xavier_attention(width, heads, dropout) for _ in range(2))
    network = FeedForward(width, hidden, inside)
    return PostNormLayer(attention, network, dropout, memory_attention if reads_memory else None)


class Adding(nn.Module):
    """Adds a number, and notes what it was given."""

    def __init__(self, number: float, given: list[Tensor]) -> None:
        super().__init__()
        self.number, self.given = number, given

    def forward(self, x_BSD: Tensor, factor: float) -> Tensor:
        self.given.append(x_BSD)
        return x_BSD + self.number * factor


def test_later_layers_take_what_earlier_ones_made_the_last_first() -> None:
    given: list[Tensor] = []
    transformer = SkipTransformer([Adding(10.0**number, given) for number in range(5)], width=2)
    for join in transformer.join:
        assert isinstance(join, nn.Linear)
        # What comes, and a thousand times what was made before.
        join.weight.data = torch.tensor([[1.0, 0.0, 1000.0, 0.0], [0.0, 1.0, 0.0, 1000.0]])
        nn.init.zeros_(join.bias)
    ended: list[Tensor] = []
    transformer.norm.register_forward_hook(lambda _norm, inputs, _normed: ended.extend(inputs))
    transformer(torch.zeros(1, 1, 2), 2.0)
    # 2; 22; 222; 222 + 22,000; 24,222 + 2,000.
    assert [int(x[0, 0, 0]) for x in given] == [0, 2, 22, 22222, 24222 + 2000]
    assert int(ended[0][0, 0, 1]) == 26222 + 20000


def test_an_even_number_of_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^4 layers: the number of a skip transformer's is odd$"):
        SkipTransformer([nn.Identity() for _ in range(4)], width=2)


def test_matrices_start_xavier_uniform_and_places_between_0_and_1() -> None:
    torch.manual_seed(0)
    width, hidden = 64, 96
    layers = [layer_of(width, hidden, heads=4, reads_memory=True) for _ in range(3)]
    transformer = SkipTransformer(layers, width)
    matrices = {key: weight for key, weight in transformer.named_parameters() if weight.dim() == 2}
    assert len(matrices) == 3 * 6 + 1
    for key, weight in matrices.items():
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.97 * bound < weight.abs().max() <= bound, key
        assert abs(weight.std() / (bound / math.sqrt(3)) - 1) < 0.03, key
    place_SD = learned_places(100, width)
    assert place_SD.shape == (100, width)
    assert place_SD.requires_grad
    assert 0 <= place_SD.min() < 0.01 < 0.99 < place_SD.max() <= 1


def test_dropout_is_on_attention_inside_the_network_and_on_what_is_added() -> None:
    layer = layer_of(8, 16, heads=2, dropout=0.25, inside=0.5, reads_memory=True)
    assert layer.self_attention.dropout == layer.memory_attention.dropout == layer.dropout.p == 0.25
    assert layer.feed_forward.dropout.p == 0.5
    x_BSD, memory_BKD = torch.randn(2, 3, 8), torch.randn(2, 1, 8)
    layer.train()
    assert not torch.equal(layer(x_BSD, None, memory_BKD), layer(x_BSD, None, memory_BKD))
    layer.eval()
    assert torch.equal(layer(x_BSD, None, memory_BKD), layer(x_BSD, None, memory_BKD))


def test_barred_tokens_are_attended_to_by_none() -> None:
    torch.manual_seed(0)
    layer = layer_of(8, 16, heads=2).eval()
    x_BSD, barred_BS = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False, True, False]])
    other_BSD = x_BSD.where(~barred_BS[..., None], 9.0)
    same_BS1 = (layer(x_BSD, barred_BS) == layer(other_BSD, barred_BS)).all(dim=-1)
    assert torch.equal(same_BS1, ~barred_BS)
    assert not torch.allclose(layer(x_BSD), layer(x_BSD, barred_BS))
