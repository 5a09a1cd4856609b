"""A small Duet data set in the form of shards, without Ray and without a text encoder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intermoe.data.card import CARD, DatasetCard, EncoderCard, shard_name, write_card
from intermoe.data.shards import CAPTION_SCHEMA, MOTION_SCHEMA, DatasetFolder, write_rows
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.files import sha256
from intermoe.text.captions import swap_caption

Splits = Mapping[str, int]
TOKENS = 3


def write_shards(
    folder: Path, splits: Splits, *, width: int = 384, encoder: str = "minilm", labelled: bool = True
) -> DatasetFolder:
    """Write so many recordings of each split, whose captions' states are noise.

    Mirrored forms are left as they are, so that a mirrored draw reads the same caption.
    """
    recordings = {
        split: [make_interaction(seed=2 + place, index=index) for index in range(count)]
        for place, (split, count) in enumerate(splits.items())
    }
    every = [recording for group in recordings.values() for recording in group]
    texts = sorted({form for r in every for text in r.captions for form in (text, swap_caption(text))})
    number = {text: row for row, text in enumerate(texts)}
    files: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)

    def write(stem: str, schema: Any, rows: Any) -> None:
        file = shard_name(stem, 0)
        write_rows(folder / file, schema, rows)
        files[file] = sha256(folder / file)

    for split, group in recordings.items():
        rows = [
            {
                "id": recording.id,
                "frames": len(recording.position_TPJ3),
                "position": recording.position_TPJ3,
                "rotation": recording.rotation_TPR6,
                "features": np.empty(0, np.float32),
                "captions": [number[text] for text in recording.captions],
                "mirrored": [number[text] for text in recording.captions],
                "swapped": [number[swap_caption(text)] for text in recording.captions],
                "swapped_mirrored": [number[swap_caption(text)] for text in recording.captions],
                "label": json.dumps(recording.label if labelled else {}),
            }
            for recording in group
        ]
        if rows:
            write(f"motions/{split}", MOTION_SCHEMA, rows)
    captions = [
        {"text": text, "words": "", "tokens": TOKENS, "eot": TOKENS - 1, "state": caption_states(text, width)}
        for text in texts
    ]
    write("captions/", CAPTION_SCHEMA, captions)
    card = DatasetCard(
        name="toy",
        reader="None",
        skeleton="smpl22",
        encoder=EncoderCard(name=encoder, width=width, sha256="0" * 64),
        recordings=dict(splits),  # type: ignore[arg-type]
        frames=1000,
        captions=len(texts),
        max_tokens=TOKENS,
        quarantined=0,
        mean=(0.0,) * 262,
        std=(1.0,) * 262,
        files=files,
    )
    write_card(folder, card)
    return DatasetFolder.open(folder)


def change_card(folder: Path, **values: Any) -> None:
    """Change what the card of a folder says, with a checksum to match."""
    file = folder / CARD
    changed = {key: value for key, value in json.loads(file.read_text()).items() if key != "sha256"} | values
    checksum = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(changed | {"sha256": checksum}))


def caption_states(text: str, width: int) -> NDArray[np.float32]:
    """Made-up states of a caption's tokens [K, W], from its hash."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal((TOKENS, width), dtype=np.float32)
