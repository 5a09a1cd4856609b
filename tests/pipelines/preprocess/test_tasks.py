"""Legend: B texts, K text tokens, W text width."""

import pytest
import torch

from intermoe.data.card import EncoderCard
from intermoe.text.encoders import TextStates
from pipelines.preprocess import tasks
from pipelines.preprocess.tasks import EncodeJob

_WIDTH = 4


class _Encoder:
    """Gives each text its number of letters, and keeps where and in what batches it was asked."""

    sha256 = "0" * 64

    def __init__(self) -> None:
        self.device, self.batches = "", []

    def to(self, device: str) -> "_Encoder":
        self.device = device
        return self

    def left_out(self, text: str) -> str:
        return ""

    def encode(self, texts: list[str]) -> TextStates:
        self.batches.append(len(texts))
        states_BKW = torch.tensor([float(len(text)) for text in texts])[:, None, None].expand(-1, 2, _WIDTH)
        return TextStates(states_BKW, torch.ones(len(texts), 2, dtype=torch.bool), torch.ones(len(texts)).long())


@pytest.mark.parametrize(("has_gpu", "device", "batches"), [(False, "cpu", [32] * 3 + [4]), (True, "cuda", [100])])
def test_captions_are_encoded_in_batches_as_large_as_the_device_wants(tmp_path, monkeypatch, has_gpu, device, batches):
    encoder = _Encoder()
    tasks._loaded.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(tasks, "load_encoder", lambda name, folder: encoder)
    texts = [f"{number:0{number % 7 + 3}d}" for number in range(100)]
    card = EncoderCard(name="minilm", width=_WIDTH, sha256=encoder.sha256)
    words = [f"{text}/NUM" for text in texts]
    job = EncodeJob(file="captions/00000.parquet", texts=texts, words=words)
    written = tasks.write_captions(job, card, None, tmp_path)
    tasks._loaded.cache_clear()
    assert (encoder.device, encoder.batches) == (device, batches)
    assert (written["file"], written["tokens"], written["cut"]) == ("captions/00000.parquet", 2, 0)
    rows = tasks.open_parquet(tmp_path / "captions/00000.parquet").read().to_pylist()
    assert [row["text"] for row in rows] == texts
    assert [row["words"] for row in rows] == words
    assert [row["state"] for row in rows] == [[len(text)] * 2 * _WIDTH for text in texts]
