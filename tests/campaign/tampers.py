"""Changes of a grown Lightning file's weights, moments and groups; none below a rounding, none without a meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

Tree = dict[str, Any]
Tamper = Callable[["Target"], str | None]  # what was changed, or None where there is nothing to change
OF_KEYS = ("attn.bias", "k_proj", "key", "qkv", "c_attn")
FUSED = ("gate_up_proj", "qkv", "c_attn", "query_key_value")  # whose old rows do not lie together
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "exp_inf", "sum", "max_exp_avg_sq")


@dataclass(frozen=True)
class Target:
    """A loaded file, and the draw that picks in it."""

    tree: Tree
    random: Random
    model_type: str
    small: Tree  # the file that was grown
    is_padded: bool

    def weight(self, least: int = 1, most: int = 9, words: tuple[str, ...] = ()) -> tuple[str, torch.Tensor] | None:
        """A random weight; never of the keys' biases, which the function does not see."""
        known = [
            (name, tensor)
            for name, tensor in self.tree["state_dict"].items()
            if least <= tensor.dim() <= most
            and tensor.is_floating_point()
            and (not words or any(word in name for word in words))
            and not (tensor.dim() == 1 and any(word in name for word in OF_KEYS))
        ]
        return self.random.choice(known) if known else None

    def entry(self, name: str, tensor: torch.Tensor) -> int | None:
        """The flat place of a large entry of a weight, none that copies nothing; None where there is none."""
        if self.is_padded and any(word in name for word in FUSED):
            return None
        return large_entry(self.random, tensor, self.small["state_dict"][name].shape if self.is_padded else None)

    def optimizer(self) -> dict[str, Any] | None:
        """A random optimizer's state."""
        known = self.tree["optimizer_states"]
        return self.random.choice(known) if known else None

    def record(self, keys: tuple[str, ...] = MOMENTS, least: int = 1) -> tuple[dict[str, Any], str] | None:
        """A random record, and one of its moments that is not all zero."""
        optimizer = self.optimizer()
        if optimizer is None:
            return None
        known = [
            (record, key)
            for record in optimizer["state"].values()
            for key in keys
            if isinstance(record.get(key), torch.Tensor)
            and record[key].dim() >= least
            and float(record[key].double().abs().max()) > 1e-9
        ]
        return self.random.choice(known) if known else None

    def group(self) -> dict[str, Any] | None:
        """A random group."""
        optimizer = self.optimizer()
        return None if optimizer is None else self.random.choice(optimizer["param_groups"])


def large_entry(random: Random, tensor: torch.Tensor, old: torch.Size | None = None) -> int | None:
    """The flat place of an entry that is not small beside the largest; None where all are zero. `old` bounds it to the
    block of a shape: what entries that copy nothing were drawn as is nobody's concern.
    """
    sizes = tensor.double().abs()
    if old is not None:
        block = torch.zeros_like(sizes)
        block[tuple(slice(0, size) for size in old)] = 1
        sizes = sizes * block
    flat = sizes.flatten()
    if not bool(flat.any()):
        return None
    return random.choice((flat > 0.3 * flat.max()).nonzero().flatten().tolist())


def _set(tensor: torch.Tensor, at: int, value: float) -> None:
    tensor.view(-1)[at] = value


def weight_entry(target: Target) -> str | None:
    """One entry, 5 % larger."""
    if (found := target.weight()) is None:
        return None
    name, tensor = found
    if (at := target.entry(name, tensor)) is None:
        return None
    _set(tensor, at, float(tensor.view(-1)[at]) * 1.05)
    return f"one entry of {name} × 1.05"


def weight_sign(target: Target) -> str | None:
    """One entry's sign."""
    if (found := target.weight()) is None:
        return None
    name, tensor = found
    if (at := target.entry(name, tensor)) is None:
        return None
    _set(tensor, at, -float(tensor.view(-1)[at]))
    return f"the sign of one entry of {name}"


def weight_rows(target: Target) -> str | None:
    """Two neighbouring rows that differ, exchanged."""
    if (found := target.weight(2)) is None:
        return None
    name, tensor = found
    if target.is_padded and any(word in name for word in FUSED):
        return None
    num_rows = len(target.small["state_dict"][name]) if target.is_padded else len(tensor)  # new ones were drawn
    known = [i for i in range(num_rows - 1) if not torch.allclose(tensor[i], tensor[i + 1], rtol=0.1)]
    if not known:
        return None
    at = target.random.choice(known)
    tensor[[at, at + 1]] = tensor[[at + 1, at]]
    return f"rows {at} and {at + 1} of {name} exchanged"


def weight_noise(target: Target) -> str | None:
    """Noise of 3 % of the largest entry on a whole matrix."""
    if (found := target.weight(2)) is None:
        return None
    name, tensor = found
    if not bool(tensor.any()):
        return None
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(target.random.randrange(99)))
    tensor.add_((noise * 0.03 * float(tensor.abs().max())).to(tensor.dtype))
    return f"noise on {name}"


def gain(target: Target) -> str | None:
    """A norm's gain or bias, 3 % larger."""
    if (found := target.weight(1, 1, ("norm", "ln_"))) is None:
        return None
    if not bool(found[1].any()):
        return None
    found[1].mul_(1.03)
    return f"{found[0]} × 1.03"


def keys_and_values(target: Target) -> str | None:
    """Keys and values exchanged."""
    state = target.tree["state_dict"]
    keys = [name for name in state if name.endswith("k_proj.weight")]
    if not keys:
        return None
    name = target.random.choice(keys)
    other = name.replace("k_proj", "v_proj")
    state[name], state[other] = state[other], state[name]
    return f"{name} and {other} exchanged"


def up_and_down(target: Target) -> str | None:
    """A gated block's `up` × 8 and `down` ÷ 8: the same function, other dynamics."""
    if target.model_type not in ("llama", "mistral", "qwen2", "qwen3", "granite", "smollm3", "stablelm"):
        return None
    state = target.tree["state_dict"]
    name = target.random.choice([one for one in state if one.endswith("up_proj.weight")])
    if name.replace("weight", "bias") in state:
        return None
    state[name].mul_(8)
    state[name.replace("up_proj", "down_proj")].div_(8)
    return f"{name} × 8, its down ÷ 8"


def weight_nan(target: Target) -> str | None:
    """One NaN."""
    if (found := target.weight()) is None:
        return None
    _set(found[1], target.random.randrange(found[1].numel()), float("nan"))
    return f"NaN in {found[0]}"


def weight_dtype(target: Target) -> str | None:
    """Another dtype."""
    if (found := target.weight()) is None:
        return None
    other = torch.float32 if found[1].dtype != torch.float32 else torch.float64
    target.tree["state_dict"][found[0]] = found[1].to(other)
    return f"{found[0]} in {other}"


def weight_lost(target: Target) -> str | None:
    """A tensor lost."""
    if (found := target.weight()) is None:
        return None
    del target.tree["state_dict"][found[0]]
    return f"{found[0]} lost"


def weight_added(target: Target) -> str:
    """A tensor added."""
    target.tree["state_dict"]["model.invented.weight"] = torch.ones(3)
    return "a tensor added"


def moment_entry(target: Target) -> str | None:
    """One entry of a moment, doubled."""
    if (found := target.record()) is None:
        return None
    record, key = found
    if (at := large_entry(target.random, record[key])) is None:
        return None
    _set(record[key], at, 2 * float(record[key].view(-1)[at]))
    return f"one entry of {key} doubled"


def moment_scaled(target: Target) -> str | None:
    """A whole moment, 10 % larger."""
    if (found := target.record()) is None:
        return None
    found[0][found[1]].mul_(1.1)
    return f"{found[1]} × 1.1"


def rare_rows(target: Target) -> str | None:
    """The smallest rows of a second moment: zeroed or × 100."""
    found = target.record(("exp_avg_sq", "square_avg", "sum"), 2)
    if found is None:
        return None
    tensor = found[0][found[1]]
    sizes = tensor.double().flatten(1).amax(1)
    known = (sizes > 1e-30).nonzero().flatten()
    if not len(known):
        return None
    at = int(known[sizes[known].argmin()])
    way = target.random.choice(["zeroed", "× 100"])
    tensor[at] *= 0 if way == "zeroed" else 100
    return f"the smallest row of {found[1]} {way}"


def moment_tenth(target: Target) -> str | None:
    """A tenth of the entries zeroed."""
    if (found := target.record(least=2)) is None:
        return None
    flat = found[0][found[1]].view(-1)
    chosen = flat.double().abs().argsort()[len(flat) // 2 : len(flat) // 2 + max(1, len(flat) // 10)]
    if not bool((flat[chosen] != 0).any()):
        return None
    flat[chosen] = 0
    return f"a tenth of {found[1]} zeroed"


def moment_permuted(target: Target) -> str | None:
    """Half of a moment's entries permuted."""
    if (found := target.record(least=2)) is None:
        return None
    flat = found[0][found[1]].view(-1)
    order = torch.randperm(len(flat) // 2, generator=torch.Generator().manual_seed(target.random.randrange(99)))
    shuffled = flat[: len(order)][order]
    if torch.allclose(shuffled, flat[: len(order)], rtol=0.2):
        return None
    flat[: len(order)] = shuffled
    return f"half of {found[1]} permuted"


def moment_zeroed(target: Target) -> str | None:
    """A whole moment zeroed."""
    if (found := target.record()) is None:
        return None
    found[0][found[1]].zero_()
    return f"{found[1]} zeroed"


def record_lost(target: Target) -> str | None:
    """A parameter's record lost."""
    optimizer = target.optimizer()
    if optimizer is None or not optimizer["state"]:
        return None
    del optimizer["state"][target.random.choice(list(optimizer["state"]))]
    return "a record lost"


def records_exchanged(target: Target) -> str | None:
    """Two records of equal shapes that differ, exchanged."""
    optimizer = target.optimizer()
    if optimizer is None:
        return None
    known = []
    items = list(optimizer["state"].items())
    for i, (one, first) in enumerate(items):
        for other, second in items[i + 1 :]:
            if _differ(first, second):
                known.append((one, other))
    if not known:
        return None
    one, other = target.random.choice(known)
    state = optimizer["state"]
    state[one], state[other] = state[other], state[one]
    return f"records {one} and {other} exchanged"


def _differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    keys = [key for key in MOMENTS if isinstance(first.get(key), torch.Tensor) and first[key].dim()]
    same = all(key in second and first[key].shape == second[key].shape for key in keys)
    return bool(keys) and same and not torch.allclose(first[keys[0]], second[keys[0]], rtol=0.2, atol=0)


def record_step(target: Target) -> str | None:
    """One record's step, or all of them."""
    optimizer = target.optimizer()
    records = [one for one in (optimizer or {"state": {}})["state"].values() if "step" in one]
    if not records:
        return None
    everyone = target.random.random() < 0.5
    for one in records if everyone else [target.random.choice(records)]:
        one["step"] = one["step"] + 1
    return f"step + 1 in {'all' if everyone else 'one'}"


ALL: tuple[Tamper, ...] = (
    weight_entry,
    weight_sign,
    weight_rows,
    weight_noise,
    gain,
    keys_and_values,
    up_and_down,
    weight_nan,
    weight_dtype,
    weight_lost,
    weight_added,
    moment_entry,
    moment_scaled,
    rare_rows,
    moment_tenth,
    moment_permuted,
    moment_zeroed,
    record_lost,
    records_exchanged,
    record_step,
)
