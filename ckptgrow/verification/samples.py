"""Samples of tokens or images, and the logits, losses and gradients of models on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckptgrow.errors import DataError
from ckptgrow.spaces.growth import IntVector
from ckptgrow.state.opening import TrainingState
from ckptgrow.verification.model_inputs import inputs_of
from ckptgrow.verification.precision import computing_in
from ckptgrow.verification.task_outputs import has_task_head, task_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEQUENCES = 2  # a batch
LONGEST = 256  # tokens a sequence
GRADIENT_TOKENS = 256  # one factor a tensor is measured: more tokens would not make it sharper
GRADIENT_BATCHES = 2
LONGEST_WINDOW = 2048  # tokens; attention over longer sequences takes minutes and gigabytes in float64
BEYOND = 32  # tokens by which a sequence passes a window
SEED = 0


def sample_batches(
    state: TrainingState, num_batches: int, tokens: Path | None, kept: IntVector | None = None
) -> list[torch.Tensor]:
    """Batches of token ids, int64, shape (2, up to 256), from a file or drawn at random.

    For vision models random images, float64, shape (2, channels, height, width). Where `kept` names the ids that may
    come up, tokens are told by their places there.

    Raises DataError where the file has too few tokens, or ids outside the vocabulary.
    """
    sizes = state.architecture.sizes
    if state.family.head == "image":
        generator = torch.Generator().manual_seed(SEED)
        shape = (num_batches, SEQUENCES, sizes["channels"], sizes["image"], sizes["image"])
        return list(torch.randn(shape, generator=generator, dtype=torch.float64))
    length = min(LONGEST, _num_positions(state) - state.family.unused_positions)
    if tokens is None:
        generator = torch.Generator().manual_seed(SEED)
        shape = (num_batches, SEQUENCES, length)
        drawn = torch.randint(0, sizes["vocab"] if kept is None else len(kept), shape, generator=generator)
        return list(drawn)
    ids = _read_tokens(tokens)
    length = min(length, len(ids) // (SEQUENCES * num_batches))
    if length < 2:
        raise DataError(f"{tokens}: has {len(ids)} tokens, expected at least {2 * SEQUENCES * num_batches}")
    if int(ids.max()) >= sizes["vocab"] or int(ids.min()) < 0:
        raise DataError(f"{tokens}: has token {int(ids.max())}, expected ids from 0 to {sizes['vocab'] - 1}")
    if kept is not None and (lost := np.setdiff1d(ids, kept)).size:
        raise DataError(f"{tokens}: has token {lost[0]}, expected tokens that the grown model has too")
    ids = ids if kept is None else np.searchsorted(kept, ids)
    used = ids[: num_batches * SEQUENCES * length].astype(np.int64)
    return list(torch.from_numpy(used).reshape(num_batches, SEQUENCES, length))


def parted(batches: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The batches in two parts: what gradients are taken on, and the rest.

    Of sequences as many as have `GRADIENT_TOKENS` tokens, from the first `GRADIENT_BATCHES` batches at most; of images
    these batches.
    """
    first, others = [*batches[:GRADIENT_BATCHES]], [*batches[GRADIENT_BATCHES:]]
    if batches[0].is_floating_point():
        return first, others
    sequences = torch.cat(first)
    few, more = sequences.split_with_sizes(_few_and_more(*sequences.shape))
    return [*few.split(SEQUENCES)], [*(more.split(SEQUENCES) if len(more) else ()), *others]


def _few_and_more(num_sequences: int, length: int) -> list[int]:
    few = min(num_sequences, math.ceil(GRADIENT_TOKENS / length))
    return [few, num_sequences - few]


def long_sample(
    states: Sequence[TrainingState], tokens: Path | None, kept: IntVector | None = None
) -> torch.Tensor | None:
    """One sequence that is longer than the windows of attention, int64, shape (1, window + 32 or all positions).

    Only on such a sequence does a wrong window change the logits. None where the batches are long enough, or where a
    window is larger than `LONGEST_WINDOW`: there only the configs' fields are compared.
    """
    small = states[0]
    windows = {int(size) for state in states for size in _windows(state.config) if size <= LONGEST_WINDOW}
    if small.family.head == "image" or not windows or max(windows) + BEYOND <= LONGEST:
        return None
    sizes = small.architecture.sizes
    length = min(max(windows) + BEYOND, _num_positions(small) - small.family.unused_positions)
    if length <= LONGEST:
        return None
    if kept is None and tokens is not None and len(ids := _read_tokens(tokens)) >= length:
        return torch.from_numpy(ids[:length].astype(np.int64)).reshape(1, length)
    num_tokens = sizes["vocab"] if kept is None else len(kept)
    return torch.randint(0, num_tokens, (1, length), generator=torch.Generator().manual_seed(SEED))


def _windows(config: Mapping[str, Any]) -> list[int]:
    return [value for key, value in config.items() if "window" in key and isinstance(value, int) and value > 1]


def logits_of(model: PreTrainedModel, sample: torch.Tensor, look: Callable[[Any], None] | None = None) -> torch.Tensor:
    """The logits, in the model's dtype, shape (batch, tokens, vocabulary), (batch, labels), or as `task_logits`.

    `look` is shown the model's whole output, hidden states included, where its head is of no other task.
    """
    with computing_in(model.dtype):
        if has_task_head(model):
            return task_logits(model, sample)
        if look is None:
            return model(**inputs_of(model, sample)).logits
        output = model(**inputs_of(model, sample), output_hidden_states=True)
        look(output)
        return output.logits


def loss_of(model: PreTrainedModel, sample: torch.Tensor) -> torch.Tensor:
    """The loss on a sample (see `loss_from`)."""
    return loss_from(model, logits_of(model, sample), sample)


def loss_from(model: PreTrainedModel, logits: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy in nats, in the logits' dtype, of the next token or, for images, of the labels 0, 1, …; of
    another task's head the mean squared distance of its outputs from 1, which every one of its parameters feels.

    transformers' own loss would cast to float32.
    """
    if has_task_head(model):
        return (logits - 1).square().mean()
    if sample.is_floating_point():
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(sample), device=logits.device))
    target = sample.to(logits.device)[:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), target.flatten())


def _num_positions(state: TrainingState) -> int:
    return int(state.architecture.sizes.get("position") or state.config.get(state.family.longest) or LONGEST)


def _read_tokens(path: Path) -> np.ndarray[Any, Any]:
    """Token ids from `.npy`, from a flat `.bin` (dtype in the `meta.json` beside it, else uint16), or from text."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).ravel()
        if path.suffix == ".bin":
            meta = path.with_name("meta.json")
            dtype = json.loads(meta.read_text())["dtype"] if meta.exists() else "uint16"
            return np.fromfile(path, dtype=np.dtype(dtype))
        return np.array(path.read_text().replace(",", " ").split(), dtype=np.int64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: holds no token ids ({error}), expected numbers, .npy or .bin") from error
