"""Text that a checkpoint's model writes after a prompt, by transformers' own `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from ckptgrow.errors import RequestError
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.subject import Subject
from ckptgrow.ranges import check


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the most likely one."""

    num_tokens: int = 100  # at most, of each text
    temperature: float = 0.8
    top_k: int = 0  # 0: of all tokens
    top_p: float = 1.0  # the smallest set of tokens with that probability
    seed: int = 0
    num_texts: int = 1

    def options(self) -> dict[str, Any]:
        """What `generate` takes."""
        several = {"num_return_sequences": self.num_texts, "max_new_tokens": self.num_tokens}
        if self.temperature == 0:
            return {**several, "do_sample": False}
        drawn = {"do_sample": True, "temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return {**several, **drawn}


def generate(subject: Subject, prompt: str, sampling: Sampling) -> list[str]:
    """The texts that follow a prompt, without it.

    Raises RequestError for a model that writes no text (BERT's), a prompt that fills the whole context, and several
    texts at temperature 0, which would all be the same.
    """
    for name, value in vars(sampling).items():
        check(name, value)
    model = cast(Any, subject.model)
    if not model.can_generate():
        raise RequestError(f"{subject.path}: a model of {model.config.model_type} writes no text; expected a decoder")
    if sampling.temperature == 0 and sampling.num_texts > 1:
        raise RequestError("⟦temperature 0⟧: gives the same text every time, expected ⟦num_texts 1⟧")
    end = subject.tokenizer.eos_token_id
    ids = _ids(subject, prompt)
    options = _within_context(subject, len(ids), sampling.options())
    known = {} if end is None else {"eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(sampling.seed)
    with quiet(), torch.inference_mode():
        inputs = torch.tensor([ids], device=model.device)
        written = model.generate(inputs, attention_mask=torch.ones_like(inputs), **known, **options)
    begin = 0 if model.config.is_encoder_decoder else len(ids)
    return [str(subject.tokenizer.decode(one[begin:], skip_special_tokens=True)) for one in written]


def check_prompt(subject: Subject, prompt: str, option: str = "prompt") -> None:
    """Raises RequestError, as `generate` does, where no text can follow a prompt, which `option` gave."""
    if not cast(Any, subject.model).can_generate():
        raise RequestError(f"{subject.path}: this model writes no text; expected a decoder")
    _within_context(subject, len(_ids(subject, prompt, option)), {"max_new_tokens": 1}, option)


def _ids(subject: Subject, prompt: str, option: str = "prompt") -> list[int]:
    return [int(one) for one in subject.encoder.encode([prompt])[0]] or [_beginning(subject, option)]


def _beginning(subject: Subject, option: str) -> int:
    """The token before a text: the tokenizer's first one, or the one between documents."""
    tokenizer = subject.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise RequestError(f"⟦{option}⟧: is empty, and the tokenizer has no token that begins a text; give some text")
    return int(cast(int, first))


def _within_context(
    subject: Subject, num_given: int, options: dict[str, Any], option: str = "prompt"
) -> dict[str, Any]:
    longest = subject.max_length
    if longest is None or cast(Any, subject.model).config.is_encoder_decoder:
        return options
    if num_given >= longest:
        raise RequestError(f"⟦{option}⟧: has {num_given} tokens, expected fewer than the model's {longest} positions")
    return {**options, "max_new_tokens": min(options["max_new_tokens"], longest - num_given)}
