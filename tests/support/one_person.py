"""Small models of one person with random weights, motions of Solo, and a toy data set of them without Ray.

Legend: T frames, F features, B samples, K text tokens, W text width.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from small_model import WordEncoder
from toy_shards import TOKENS, caption_states

from intermoe.body.skeletons import HUMANML22
from intermoe.data.card import DatasetCard, EncoderCard, shard_name, write_card
from intermoe.data.feature_moments import Moments
from intermoe.data.rows import RecordedMotion
from intermoe.data.shards import CAPTION_SCHEMA, MOTION_SCHEMA, DatasetFolder, write_rows
from intermoe.datasets.solo.motions import SoloMotion, make_motion
from intermoe.files import sha256
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig

_FORMS = ("captions", "mirrored", "swapped", "swapped_mirrored")
NETWORKS = ("mdm", "mld", "salad")
PREDICTIONS: dict[str, dict[str, Any]] = {
    "mdm": {"sampler": "ancestral"},
    "mld": {"schedule": "scaled_linear", "prediction": "noise"},
    "salad": {"schedule": "scaled_linear", "prediction": "v"},
}
"""Of each network as it was published: how noise comes in, what is predicted, how motions are sampled."""
CONFIG: dict[str, Any] = {
    "data": {"skeleton": "humanml22", "encoder": "minilm", "max_frames": 61},
    "vae": {"width": 8, "latent": 4, "blocks": 1, "dropout": 0.0},
    "mld_vae": {"width": 32, "layers": 3, "heads": 4, "hidden": 16, "dropout": 0.0},
    "denoiser": {"width": 32, "layers": 3, "heads": 4, "dropout": 0.0},
    "moe": {"experts": 4, "hidden": 16, "c_exp": 1.0},
    "diffusion": {"steps": 100, "sampler_steps": 5, "guidance": 2.0},
}


def one_person_config(network: str, *, selection: str = "dense", max_frames: int = 61, **diffusion: Any) -> ModelConfig:
    """The config of a small network."""
    changes = {
        "data": CONFIG["data"] | {"max_frames": max_frames},
        "moe": CONFIG["moe"] | {"selection": selection},
        "diffusion": CONFIG["diffusion"] | diffusion,
    }
    return ModelConfig.parse(CONFIG | changes | {"network": network})


def one_person_model(
    network: str, *, selection: str = "dense", max_frames: int = 61, seed: int = 0, **diffusion: Any
) -> InterMoE:
    """A small network with random weights, normalised by some motions of Solo."""
    config = one_person_config(network, selection=selection, max_frames=max_frames, **diffusion)
    model = InterMoE.initial(config, seed=seed).eval()
    features = [RecordedMotion(features_TPF=motion_features(number)) for number in range(4)]
    mean_F, std_F = Moments.total(Moments.of(motion, HUMANML22) for motion in features).mean_and_std()
    model.normaliser.mean_F.copy_(mean_F)
    model.normaliser.std_F.copy_(std_F.where(std_F >= 1e-3, 1.0))
    model._encoder = WordEncoder()  # type: ignore[assignment]
    return model


def solo_motion(number: int) -> SoloMotion:
    """A motion of Solo, without its mirror image."""
    return make_motion(seed=1, index=number)[0]


def motion_features(number: int) -> np.ndarray:
    """Its features [T, 1, F]."""
    return solo_motion(number).features()[:, None]


def write_solo_shards(folder: Path, splits: Mapping[str, int]) -> DatasetFolder:
    """Write so many motions of each split; their captions are read alike in every form."""
    motions = {
        split: [solo_motion(100 * place + number) for number in range(count)]
        for place, (split, count) in enumerate(splits.items())
    }
    words = {
        text: words
        for group in motions.values()
        for m in group
        for text, words in zip(m.captions, m.words, strict=True)
    }
    number = {text: row for row, text in enumerate(sorted(words))}
    files: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)

    def write(stem: str, schema: Any, rows: Any) -> None:
        file = shard_name(stem, 0)
        write_rows(folder / file, schema, rows)
        files[file] = sha256(folder / file)

    empty = np.empty(0, np.float32)
    for split, group in motions.items():
        rows = [
            {
                "id": f"{split}{place}",
                "frames": len(motion.features()) + 1,
                "position": empty,
                "rotation": empty,
                "features": motion.features(),
                "label": json.dumps(motion.label),
                **{form: [number[text] for text in motion.captions] for form in _FORMS},
            }
            for place, motion in enumerate(group)
        ]
        write(f"motions/{split}", MOTION_SCHEMA, rows)
    write(
        "captions/",
        CAPTION_SCHEMA,
        [
            {
                "text": text,
                "words": words[text],
                "tokens": TOKENS,
                "eot": TOKENS - 1,
                "state": caption_states(text, 384),
            }
            for text in sorted(words)
        ],
    )
    of_training = [RecordedMotion(features_TPF=motion.features()[:, None]) for motion in motions["train"]]
    mean_F, std_F = Moments.total(Moments.of(motion, HUMANML22) for motion in of_training).mean_and_std()
    card = DatasetCard(
        name="toy",
        reader="None",
        skeleton="humanml22",
        names_persons=False,
        fps=20,
        encoder=EncoderCard(name="minilm", width=384, sha256="0" * 64),
        recordings=dict(splits),  # type: ignore[arg-type]
        frames=1000,
        captions=len(words),
        max_tokens=TOKENS,
        quarantined=0,
        mean=tuple(mean_F.tolist()),
        std=tuple(std_F.tolist()),
        files=files,
    )
    write_card(folder, card)
    return DatasetFolder.open(folder)
