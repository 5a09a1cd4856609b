"""Networks of one person: what they work on, and what does not fit them."""

from typing import Any

import pytest
from one_person import CONFIG, NETWORKS, one_person_config

from intermoe.errors import UserError
from intermoe.model_config import ModelConfig

# Each is refused of one person.
OF_TWO = {
    ("mdm", "data.persons", "named"): "drawn",
    ("mdm", "diffusion.hand_contact_loss", 0.1): "0",
    ("salad", "diffusion.error", "decoded"): "latent",
    ("mdm", "denoiser.person_embedding", True): "False",
}
# Each with the whole message.
UNFIT = {
    ("intermoe", "data.skeleton", "humanml22"): (
        "network = intermoe is for 2 persons, data.skeleton = humanml22 is not (allowed: smpl22, smplx55)"
    ),
    ("mdm", "data.skeleton", "smpl22"): (
        "network = mdm is for 1 person, data.skeleton = smpl22 is not (allowed: humanml22)"
    ),
    ("mdm", "diffusion.error", "decoded"): (
        "diffusion.error = decoded needs a VAE, which network = mdm has not (allowed: latent)"
    ),
    ("salad", "denoiser.layers", 4): "denoiser.layers = 4 with network = salad (allowed: odd)",
    ("mld", "denoiser.layers", 4): "denoiser.layers = 4 with network = mld (allowed: odd)",
    ("mld", "mld_vae.layers", 4): "mld_vae: layers = 4 is not odd",
    ("mld", "denoiser.width", 64): "denoiser.width = 64 with network = mld (allowed: 32, as mld_vae.width)",
    ("mld", "mld_vae.places", 50): "mld_vae.places = 50 (allowed: data.max_frames + 2 = 63 or more)",
    ("mld", "moe.selection", "uniform"): (
        "moe.selection = uniform deals out the frames of a motion, of which network = mld has one "
        "(allowed: dynamic, token_choice, expert_choice, dense)"
    ),
    ("mld", "moe.pool", "sequence"): (
        "moe.pool = sequence holds one token with network = mld (allowed: worker, global)"
    ),
} | {
    (network, key, value): f"{key} = {value} is of two persons, network = {network} of one (allowed: {allowed})"
    for (network, key, value), allowed in OF_TWO.items()
}


@pytest.mark.parametrize(("case", "message"), UNFIT.items(), ids=lambda case: "-".join(map(str, case[:2])))
def test_what_does_not_fit_is_refused_in_one_line(case: tuple[str, str, Any], message: str) -> None:
    network, key, value = case
    part, name = key.split(".")
    values = CONFIG | {"network": network, part: CONFIG[part] | {name: value}}
    with pytest.raises(UserError) as caught:
        ModelConfig.parse(values, where="a.yaml")
    assert str(caught.value) == "a.yaml: " + message


def test_the_networks_say_what_they_work_on() -> None:
    assert [one_person_config(network).frames_per_latent for network in NETWORKS] == [1, 61, 4]
    assert [one_person_config(network).has_vae for network in NETWORKS] == [False, True, True]
    assert one_person_config("mdm").parts == ("normaliser", "denoiser")
