"""Changes of what a grown Lightning file carries: groups, schedules, counters, other keys, config, history."""

from __future__ import annotations

from typing import Any

import torch

from tests.campaign.tampers import Tamper, Target

CHANGED_OPTIONS = ("lr", "betas", "eps", "weight_decay", "momentum", "alpha", "initial_lr", "lr_decay", "dampening")
FLAGS = ("amsgrad", "maximize", "nesterov", "decoupled_weight_decay", "centered")
# config fields that the function or the training of a family's model reads
MEANT = {
    "rms_norm_eps": 1e-3,
    "layer_norm_eps": 1e-3,
    "layer_norm_epsilon": 1e-3,
    "norm_epsilon": 1e-3,
    "hidden_act": "relu",
    "activation_function": "tanh",
    "activation_dropout": 0.3,
    "attention_dropout": 0.3,
    "resid_pdrop": 0.3,
    "hidden_dropout_prob": 0.3,
    "dropout": 0.3,
    "eos_token_id": 5,
    "bos_token_id": 6,
    "initializer_range": 0.5,
    "router_aux_loss_coef": 0.5,
    "max_position_embeddings": 64,
    "clip_qkv": 0.1,
    "logits_scaling": 4.0,
    "sliding_window": 3,
    "num_experts_per_tok": 1,
}
WITH_ANY_FAMILY = ("eos_token_id", "bos_token_id", "initializer_range")


def option_changed(target: Target) -> str | None:
    """A number of a group."""
    if (group := target.group()) is None:
        return None
    known = [key for key in CHANGED_OPTIONS if key in group and group[key] not in (None, 0.0)]
    if not known:
        return None
    key = target.random.choice(known)
    value = group[key]
    factor = target.random.choice([1.01, 7.0]) if key != "betas" else 1.0
    group[key] = (value[0] * 0.9, value[1]) if key == "betas" else _scaled(value, factor)
    return f"{key} of a group × {factor}"


def _scaled(value: Any, factor: float) -> Any:
    return tuple(one * factor for one in value) if isinstance(value, tuple) else value * factor


def option_lost(target: Target) -> str | None:
    """A number of a group, lost."""
    if (group := target.group()) is None:
        return None
    known = [key for key in (*CHANGED_OPTIONS, *FLAGS) if key in group]
    if not known:
        return None
    key = target.random.choice(known)
    del group[key]
    return f"{key} of a group lost"


def flag_changed(target: Target) -> str | None:
    """A flag of a group."""
    if (group := target.group()) is None:
        return None
    known = [key for key in FLAGS if key in group]
    if not known:
        return None
    key = target.random.choice(known)
    group[key] = not group[key]
    return f"{key} of a group is {group[key]}"


def member_moved(target: Target) -> str | None:
    """A parameter moved to a group of another rate."""
    optimizer = target.optimizer()
    if optimizer is None:
        return None
    groups = optimizer["param_groups"]
    known = [
        (one, other)
        for one in groups
        for other in groups
        if len(one["params"]) > 1 and float(one["lr"]) != float(other["lr"])
    ]
    if not known:
        return None
    one, other = target.random.choice(known)
    for key in ("params", "param_names"):
        if key in one and key in other:
            other[key].append(one[key].pop())
    return "a parameter moved to another group"


def member_lost(target: Target) -> str | None:
    """A named parameter that the optimizer no longer holds."""
    optimizer = target.optimizer()
    if optimizer is None or not all("param_names" in group for group in optimizer["param_groups"]):
        return None
    group = target.random.choice(optimizer["param_groups"])
    if len(group["params"]) < 2:
        return None
    at = target.random.randrange(len(group["params"]))
    optimizer["state"].pop(group["params"].pop(at), None)
    return f"{group['param_names'].pop(at)} no longer in the optimizer"


def optimizers_lost(target: Target) -> str | None:
    """All optimizers lost."""
    if not target.tree["optimizer_states"]:
        return None
    target.tree["optimizer_states"] = []
    return "optimizers lost"


def schedule_changed(target: Target) -> str | None:
    """A number of a schedule."""
    if not target.tree["lr_schedulers"]:
        return None
    state = target.random.choice(target.tree["lr_schedulers"])
    known = [
        key
        for key, value in state.items()
        if (isinstance(value, int | float) and not isinstance(value, bool))
        or (isinstance(value, list) and value and isinstance(value[0], float))
    ]
    key = target.random.choice(known)
    value = state[key]
    state[key] = [one * 1.5 + 1e-5 for one in value] if isinstance(value, list) else value + 1
    return f"{key} of a schedule"


def schedule_lost(target: Target) -> str | None:
    """A schedule lost, or a number of it."""
    schedules = target.tree["lr_schedulers"]
    if not schedules:
        return None
    if target.random.random() < 0.5:
        schedules.pop()
        return "a schedule lost"
    del schedules[0]["base_lrs"]
    return "base_lrs of a schedule lost"


def counter(target: Target) -> str:
    """A counter of the run."""
    key = target.random.choice(["global_step", "epoch", "loops", "loops lost"])
    if key == "loops":
        target.tree["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] += 1
    elif key == "loops lost":
        del target.tree["loops"]
    else:
        target.tree[key] += target.random.choice([-1, 1])
    return key


def other_key(target: Target) -> str:
    """What goes along unchanged: the scaler, callbacks, other keys, hyper-parameters."""
    match target.random.choice(["scaler", "scaler lost", "callback", "other", "other lost", "hyper"]):
        case "scaler":
            target.tree["MixedPrecision"]["scale"] *= 2
            return "scale of the scaler"
        case "scaler lost":
            del target.tree["MixedPrecision"]
            return "scaler lost"
        case "callback":
            target.tree["callbacks"]["EarlyStopping"]["wait_count"] += 1
            return "a callback's count"
        case "other":
            target.tree["notes"]["tokens_seen"] += 1
            return "another key's number"
        case "other lost":
            del target.tree["notes"]
            return "another key lost"
        case _:
            target.tree["hyper_parameters"]["dropout_of_mine"] = 0.7
            return "a hyper-parameter"


def average(target: Target) -> str | None:
    """The average of the weights: one tensor, or lost, or one entry."""
    known = [one for one in target.tree["state_dict"] if one.startswith("ema.")]
    if not known:
        return None
    name = target.random.choice(known)
    tensor = target.tree["state_dict"][name]
    match target.random.choice(["scaled", "lost", "random"]):
        case "scaled":
            if not bool(tensor.any()):
                return None
            tensor.mul_(1.1)
        case "lost":
            for one in known:
                del target.tree["state_dict"][one]
        case _:
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)))
    return f"the average's {name}"


def config_field(target: Target) -> str | None:
    """A field that growth does not change."""
    config = target.tree["hyper_parameters"]["config"]
    known = [key for key in MEANT if (key in config or key in WITH_ANY_FAMILY) and config.get(key) != MEANT[key]]
    key = target.random.choice(known)
    config[key] = MEANT[key]
    return f"config {key} = {MEANT[key]}"


def config_window(target: Target) -> str | None:
    """Kinds of layers exchanged."""
    config = target.tree["hyper_parameters"]["config"]
    kinds = config.get("layer_types")
    if not kinds or len(set(kinds)) < 2:
        return None
    other = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}
    config["layer_types"] = [other.get(one, one) for one in kinds]
    return "layer_types exchanged"


def rope(target: Target) -> str | None:
    """Another base of the rotary embedding."""
    config = target.tree["hyper_parameters"]["config"]
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        return None
    parameters["rope_theta"] = float(parameters["rope_theta"]) * 1.5
    return "rope_theta × 1.5"


def history(target: Target) -> str | None:
    """The growth's own record, lost."""
    known = target.tree.get("ckptgrow")
    if not known or not known.get("history"):
        return None
    if target.random.random() < 0.5:
        del target.tree["ckptgrow"]
    else:
        known["history"].pop()
    return "the record of the growth lost"


ALL: tuple[Tamper, ...] = (
    option_changed,
    option_changed,
    option_lost,
    flag_changed,
    member_moved,
    member_lost,
    optimizers_lost,
    schedule_changed,
    schedule_changed,
    schedule_lost,
    counter,
    other_key,
    average,
    config_field,
    config_field,
    config_window,
    rope,
    history,
)
