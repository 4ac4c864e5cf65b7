"""Tiny models that read bytes, as checkpoints; and what transformers alone says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from ckptgrow.evaluate.evaluation import Evaluation
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.subject import Subject, open_subject
from ckptgrow.families.registry import FAMILIES
from tests.helpers.gpt2 import gpt2_config
from tests.helpers.paths import ROOT

OWN_TASK = """
task: own_endings
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
  cache_dir: {cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
tag:
  - own_tag
"""
LAMBADA, WIKITEXT = ROOT / "fixtures" / "lambada.jsonl", ROOT / "fixtures" / "wikitext.txt"
CONTEXT = 64
STEPS, LEARNED = 60, 8  # of training; bytes at the end of a passage
EVALUATED = [name for name in ("gpt2", "llama") if name in FAMILIES]
GPT2 = gpt2_config(vocab_size=256, n_positions=CONTEXT, n_embd=32, n_head=4, n_inner=64)
LLAMA = LlamaConfig(
    vocab_size=256,
    max_position_embeddings=CONTEXT,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    bos_token_id=0,
    eos_token_id=0,
)
PREFIX = 0  # the byte that stands before a text


@cache
def byte_model(family: str) -> PreTrainedModel:
    """A float32 model of bytes that has learned by heart how some of the passages end."""
    torch.manual_seed(0)
    return learned(GPT2LMHeadModel(GPT2) if family == "gpt2" else LlamaForCausalLM(LLAMA))


def learned(model: PreTrainedModel) -> PreTrainedModel:
    ends = torch.tensor([list(text.encode())[-CONTEXT - 1 :] for text in passages()[:20]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = model(input_ids=ends[:, :-1]).logits[:, -LEARNED:]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ends[:, -LEARNED:].flatten()).backward()
        optimizer.step()
    return model.eval()


def passages(path: Path = LAMBADA) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """One sequence alone, nothing padded: (position, vocabulary) in float64."""
    return torch.log_softmax(model(input_ids=torch.tensor([tokens])).logits[0].double(), dim=-1)


def continuation_score(model: PreTrainedModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The log-likelihood of a continuation, and whether greedy decoding would give it; cut to the context window."""
    whole = (context + continuation)[-(CONTEXT + 1) :]
    predicted = log_probabilities(model, whole[:-1])[-len(continuation) :]
    chosen = predicted[torch.arange(len(continuation)), torch.tensor(continuation)]
    return float(chosen.sum()), predicted.argmax(-1).tolist() == continuation


def text_score(model: PreTrainedModel, text: str) -> float:
    """The log-likelihood of a whole text, every window as full as it can be."""
    tokens = list(text.encode())
    total = 0.0
    for begin in range(0, len(tokens), CONTEXT):
        end = min(begin + CONTEXT, len(tokens))
        before = [PREFIX, *tokens][:end] if begin == 0 else tokens[end - CONTEXT - 1 : end - 1]
        predicted = log_probabilities(model, before)[-(end - begin) :]
        total += float(predicted[torch.arange(end - begin), torch.tensor(tokens[begin:end])].sum())
    return total


def word_tokenizer(directory: Path) -> Path:
    """A byte-level BPE of 1200 tokens, learned from the fixtures, with an end-of-text token."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=1200, special_tokens=["<|end|>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    backend.train([str(LAMBADA), str(WIKITEXT)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(directory)
    return directory


Score = Callable[..., Evaluation]


def opened(path: Path, dtype: str = "float32", tokenizer: str | None = "bytes") -> Subject:
    with launched("cpu") as processes:
        return open_subject(path, tokenizer=tokenizer, dtype=dtype, device=processes.device)
