"""Attention against torch's own, and the conditioning against plain formulas."""

import math

import pytest
import torch
from torch import nn

from intermoe.layers.attention import Attention, key_mask, plain_key_mask
from intermoe.layers.conditioning import AdaptiveLayerNorm, Film, modulations, sinusoids


def test_attention_equals_torchs_with_an_added_zero_key() -> None:
    torch.manual_seed(0)
    ours, theirs = (
        Attention(16, num_heads=4, dropout=0.0),
        nn.MultiheadAttention(16, 4, batch_first=True, add_zero_attn=True),
    )
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.4)
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).detach()
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).detach()
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, context = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 5, 16)
    mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]  # the last sample has the zero key alone
    actual = ours(x, context, key_mask(mask, num_persons=2))
    for person in (0, 1):
        expected, _ = theirs(x[person], context[person], context[person], key_padding_mask=~mask)
        torch.testing.assert_close(actual[person], expected, atol=1e-5, rtol=0)
    assert torch.equal(actual[:, 2], ours.out.bias.expand(2, 5, 16))


def test_attention_is_torchs_where_the_zero_key_is_for_those_alone_that_have_no_other() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, num_heads=4, dropout=0.0), nn.MultiheadAttention(16, 4, batch_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.4)
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).detach()
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).detach()
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, context = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 5, 16)
    mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    actual = ours(x, context, plain_key_mask(mask, num_persons=2))
    for person in (0, 1):
        expected, _ = theirs(x[person], context[person], context[person], key_padding_mask=~mask)
        torch.testing.assert_close(actual[person, :2], expected[:2], atol=1e-5, rtol=0)
    assert torch.equal(actual[:, 2], ours.out.bias.expand(2, 5, 16))


def test_attention_drops_weights_in_training_only() -> None:
    torch.manual_seed(0)
    attention, x = Attention(16, num_heads=2, dropout=0.5), torch.randn(2, 1, 6, 16)
    allowed = key_mask(torch.ones(1, 6, dtype=torch.bool), num_persons=2)
    assert not torch.equal(attention(x, x, allowed), attention(x, x, allowed))
    attention.eval()
    assert torch.equal(attention(x, x, allowed), attention(x, x, allowed))


def test_sinusoids_follow_their_formula() -> None:
    actual = sinusoids(torch.tensor([0, 7, 980]), 6)
    for row, position in enumerate((0, 7, 980)):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert actual[row, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-4)
            assert actual[row, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-4)


def test_a_new_adaptive_norm_is_a_plain_one() -> None:
    x, emb = torch.randn(2, 3, 4, 8), torch.randn(3, 8)
    torch.testing.assert_close(AdaptiveLayerNorm(8)(x, emb), nn.functional.layer_norm(x, (8,), eps=1e-6))


def test_film_scales_and_shifts_by_the_conditioning_of_the_sample() -> None:
    torch.manual_seed(0)
    film, x, emb = Film(8), torch.randn(2, 3, 5, 8), torch.randn(3, 8)
    for row in range(3):
        scale, shift = film.modulation(emb[row] * torch.sigmoid(emb[row])).chunk(2)
        torch.testing.assert_close(film(x, emb)[:, row], x[:, row] * (1 + scale) + shift)


def test_modulations_made_in_one_product_are_those_of_each_norm():
    torch.manual_seed(0)
    norms = [AdaptiveLayerNorm(8) for _ in range(3)]
    for norm in norms:
        nn.init.normal_(norm.modulation.weight)
        nn.init.normal_(norm.modulation.bias)
    x, emb = torch.randn(2, 3, 5, 8), torch.randn(3, 8)
    for norm, modulation in zip(norms, modulations(norms, emb), strict=True):
        torch.testing.assert_close(norm(x, modulation), norm(x, emb), rtol=1e-6, atol=1e-6)
