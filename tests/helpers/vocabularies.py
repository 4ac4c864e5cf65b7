"""Tiny tokenizers, and a model's directory that one of them belongs to, with a Trainer's optimizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ckptgrow.data.tokenizers import train

SENTENCES = ["the growth of a checkpoint", "a grown model has the logits of the small one", "growing growth, grown"]
OTHERS = ["moments and learning rates follow", "the moments of the grown model", "a model of models, a growth of rates"]
OLD, NEW, LONGER = "old", "new", "longer"
ROWS = 304  # of the model: its tokenizer has fewer tokens, and the rest is padding
END, PAD, WORD, MARK = "<|endoftext|>", "<pad>", "checkpointing", "<|mark|>"


@cache
def tokenizers() -> Path:
    """A directory with three tokenizers: a byte-level one, one of other texts, and the first with a few tokens more."""
    home = Path(mkdtemp())
    train(SENTENCES, 280, home / OLD)
    train(OTHERS, 290, home / NEW)
    longer = AutoTokenizer.from_pretrained(home / OLD)
    longer.add_tokens([WORD])
    longer.add_special_tokens({"pad_token": PAD, "additional_special_tokens": [MARK]})
    longer.save_pretrained(home / LONGER)
    return home


def tokenizer(name: str) -> Path:
    return tokenizers() / name


def model_directory(path: Path, *, tied: bool, dtype: torch.dtype = torch.float64) -> Path:
    """A Llama of the old tokenizer after five steps of AdamW, as `save_pretrained` and a Trainer leave it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=20,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        tokens = torch.randint(0, 280, (2, 24))
        logits = model(input_ids=tokens).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [0]
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tokenizer(OLD)).save_pretrained(path)
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    return path
