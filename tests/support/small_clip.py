"""A small text tower in CLIP's form, as wide as the real one."""

import json
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz.,!"


def write_tokenizer(folder: Path) -> int:
    """A byte-pair vocabulary in CLIP's form: '!' is token 0, as in the real one; two merges."""
    merges = ["t w", "tw o</w>"]
    tokens = ["!", *[c for c in LETTERS if c != "!"], *[f"{c}</w>" for c in LETTERS], "tw", "two</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return len(tokens)


def clip_config(vocabulary: int, width: int = 768) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=12,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )


def write_clip(folder: Path) -> int:
    """Tokenizer and tower in a folder, with random weights; the number of tokens."""
    torch.manual_seed(0)
    vocabulary = write_tokenizer(folder)
    CLIPTextModel(clip_config(vocabulary)).save_pretrained(folder)
    return vocabulary
