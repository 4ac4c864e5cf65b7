"""Numbered parameters get their names only where nothing else could be meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments

from ckptgrow.errors import OptimizerError
from ckptgrow.formats.raw_optimizers import raw_optimizers
from ckptgrow.state.optimizer_state import named_states
from ckptgrow.storage.tensors import InMemory
from tests.helpers.gpt2 import perturbed_gpt2

MODEL = perturbed_gpt2()
NAMES = {parameter: name for name, parameter in MODEL.named_parameters()}
SHAPES = {name: tuple(parameter.shape) for name, parameter in MODEL.named_parameters()}


def raw(groups: Sequence[Sequence[str]], *, with_state: bool = True, with_names: bool = False) -> dict[str, Any]:
    """An AdamW's state dict over these groups of names, numbered as torch does."""
    number = {name: index for index, name in enumerate(name for group in groups for name in group)}
    state = {number[name]: {"exp_avg": InMemory(torch.zeros(SHAPES[name]))} for name in number} if with_state else {}
    entries: list[dict[str, Any]] = [{"lr": 0.1, "params": [number[name] for name in group]} for group in groups]
    if with_names:
        for entry, group in zip(entries, groups, strict=True):
            entry["param_names"] = list(group)
    return {"state": state, "param_groups": entries}


def named(*raws: Mapping[str, Any], shapes: Mapping[str, Any] = SHAPES, order: Any = None) -> list[list[list[str]]]:
    found = named_states(raw_optimizers(raws), shapes, order)
    return [[list(group.names) for group in one.groups] for one in found]


def is_decayed(name: str) -> bool:
    return "ln_" not in name and not name.endswith("bias")


MODEL_ORDER = list(SHAPES)
DECAYED = [name for name in MODEL_ORDER if is_decayed(name)]
UNDECAYED = [name for name in MODEL_ORDER if not is_decayed(name)]


@pytest.mark.parametrize(
    "groups",
    [
        [MODEL_ORDER],
        [MODEL_ORDER[:7], MODEL_ORDER[7:]],
        [DECAYED, UNDECAYED],
        [UNDECAYED, DECAYED],
        [[], MODEL_ORDER],
    ],
    ids=["one group", "cut in two", "decay first", "no decay first", "an empty group"],
)
def test_orders_of_real_trainers_are_recognised(groups: Any) -> None:
    assert named(raw(groups)) == [groups]


def test_the_groups_of_transformers_own_trainer_are_recognised(tmp_path: Path) -> None:
    trainer = Trainer(model=MODEL, args=TrainingArguments(str(tmp_path), weight_decay=0.1, report_to=[], use_cpu=True))
    optimizer = trainer.create_optimizer()
    groups = [[NAMES[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    assert len(groups) == 2
    assert named(raw(groups)) == [groups]


@pytest.mark.parametrize("frozen", ["transformer.wte.weight", "transformer.wpe.weight"])
def test_frozen_parameters_whose_shape_is_their_own_are_left_out(frozen: str) -> None:
    rest = [name for name in MODEL_ORDER if name != frozen]
    assert named(raw([rest])) == [[rest]]
    groups = [[name for name in group if name != frozen] for group in (DECAYED, UNDECAYED)]
    assert named(raw(groups)) == [groups]


def test_frozen_parameters_that_could_be_others_are_refused() -> None:
    layer = [name for name in MODEL_ORDER if ".h.0." not in name]
    with pytest.raises(OptimizerError, match="more than one order"):
        named(raw([layer]))
    assert named(raw([layer], with_names=True)) == [[layer]]
    assert named(raw([layer]), order=layer) == [[layer]]


def test_groups_by_layer_are_refused_at_once() -> None:
    layers = 40
    shapes = {f"h.{layer}.{name}": (3,) for layer in range(layers) for name in ("a", "b", "c")}
    state = {index: {"exp_avg": InMemory(torch.zeros(3))} for index in range(len(shapes))}
    groups = [{"params": [3 * layer, 3 * layer + 1, 3 * layer + 2]} for layer in reversed(range(layers))]
    order = [name for layer in range(layers) for name in (f"h.{layer}.a", f"h.{layer}.b", f"h.{layer}.c")]
    frozen = {**shapes, "tail": (3,)}  # without it the model's own order would fit
    with pytest.raises(OptimizerError, match=r"3, 3, 3, 3, 3 and 35 more fit the model's 121 parameters in more than"):
        named({"state": state, "param_groups": groups}, shapes=frozen)
    assert named({"state": state, "param_groups": groups}, shapes=frozen, order=order)[0][0] == order[:3]


@pytest.mark.parametrize("groups", [[MODEL_ORDER[1:]], [DECAYED, UNDECAYED]], ids=["frozen", "two groups"])
def test_an_optimizer_without_records_says_nothing_but_counts(groups: Any) -> None:
    assert named(raw([MODEL_ORDER], with_state=False)) == [[MODEL_ORDER]]
    with pytest.raises(OptimizerError, match="more than one order"):
        named(raw(groups, with_state=False))


def test_other_shapes_fit_in_no_order() -> None:
    state = raw([MODEL_ORDER])
    state["state"][3]["exp_avg"] = InMemory(torch.zeros(5, 5))
    with pytest.raises(OptimizerError, match=r"in no order.*param_order=FILE"):
        named(state)


def test_a_named_parameter_with_a_wrong_shape_is_refused_by_name() -> None:
    state = raw([MODEL_ORDER], with_names=True)
    state["state"][0]["exp_avg"] = InMemory(torch.zeros(5, 5))
    with pytest.raises(OptimizerError, match=r"exp_avg of transformer.wte.weight has shape \[5, 5\]"):
        named(state)


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "_orig_mod.", "model._orig_mod."])
@pytest.mark.parametrize("stored", ["", "model."])
def test_names_may_stand_under_another_prefix(prefix: str, stored: str) -> None:
    state = raw([DECAYED, UNDECAYED], with_names=True)
    for group in state["param_groups"]:
        group["param_names"] = [prefix + name for name in group["param_names"]]
    shapes = {stored + name: shape for name, shape in SHAPES.items()}
    assert named(state, shapes=shapes) == [[[stored + name for name in group] for group in (DECAYED, UNDECAYED)]]


def test_names_inside_wrappers_of_layers_are_known() -> None:
    state = raw([MODEL_ORDER], with_names=True)
    names = state["param_groups"][0]["param_names"]
    state["param_groups"][0]["param_names"] = [
        name.replace(".h.0.", ".h.0._checkpoint_wrapped_module.") for name in names
    ]
    assert named(state) == [[MODEL_ORDER]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (MODEL_ORDER[:-1], "27 names"),
        ([MODEL_ORDER[0], *MODEL_ORDER[:-1]], "27 of them different"),
        ([*MODEL_ORDER[:-1], "nobody"], "no parameter nobody"),
    ],
    ids=["too few", "twice", "unknown"],
)
def test_a_list_that_does_not_fit_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        named(raw([MODEL_ORDER]), order=names)


def test_factored_records_have_the_shapes_of_their_factors() -> None:
    state = raw([MODEL_ORDER])
    for number, name in enumerate(MODEL_ORDER):
        shape = SHAPES[name]
        if len(shape) == 2:
            factors = {"row_var": (shape[0], 1), "col_var": (1, shape[1])}
            state["state"][number] = {key: InMemory(torch.zeros(one)) for key, one in factors.items()}
    assert named(state) == [[MODEL_ORDER]]
    state["state"][0]["col_var"] = InMemory(torch.zeros(1, 999))
    with pytest.raises(OptimizerError, match="in no order"):
        named(state)


def test_eight_bit_states_without_their_scales_are_refused_with_the_way_out() -> None:
    state = raw([MODEL_ORDER])
    state["state"][0] = {
        "state1": InMemory(torch.zeros(4, dtype=torch.uint8)),
        "qmap1": InMemory(torch.zeros(256)),
        "step": 3,
    }
    with pytest.raises(OptimizerError, match=r'holds qmap1, state1, expected .*absmax1.*reset=\("optimizer"'):
        named(state)


@st.composite
def dealt_models(draw: st.DrawFn) -> tuple[dict[str, tuple[int, ...]], list[list[str]], list[str]]:
    """A small model with few shapes, its parameters dealt out to up to three groups, some to none."""
    sizes = draw(st.lists(st.sampled_from([(2,), (3,), (2, 3), (3, 3)]), min_size=1, max_size=7))
    shapes = {f"p{index}": size for index, size in enumerate(sizes)}
    owners = draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    groups = [[name for name, owner in zip(shapes, owners, strict=True) if owner == one] for one in range(3)]
    return shapes, groups, [name for name, owner in zip(shapes, owners, strict=True) if owner == 3]


def all_dealings(shapes: Mapping[str, Any], groups: Sequence[Sequence[str]]) -> set[tuple[tuple[str, ...], ...]]:
    """By trying everything: every assignment of the model's parameters, in order, to groups or to none."""
    found: set[tuple[tuple[str, ...], ...]] = set()
    wanted = [[shapes[name] for name in group] for group in groups]

    def deal(position: int, dealt: list[list[str]]) -> None:
        if position == len(shapes):
            if all(len(one) == len(other) for one, other in zip(dealt, wanted, strict=True)):
                found.add(tuple(tuple(one) for one in dealt))
            return
        name = list(shapes)[position]
        deal(position + 1, dealt)
        for index, shapes_wanted in enumerate(wanted):
            if len(dealt[index]) < len(shapes_wanted) and shapes_wanted[len(dealt[index])] == shapes[name]:
                extended = [[*one, name] if place == index else one for place, one in enumerate(dealt)]
                deal(position + 1, extended)

    deal(0, [[] for _ in groups])
    return found


@settings(max_examples=150, deadline=None)
@given(dealt_models(), st.integers(0, 2))
def test_an_order_is_found_exactly_where_it_is_the_only_one(
    model: tuple[dict[str, tuple[int, ...]], list[list[str]], list[str]], cut: int
) -> None:
    shapes, groups, _ = model
    parts = [part for part in (groups[:cut], groups[cut:]) if part]  # one optimizer, or two
    raws: list[dict[str, Any]] = []
    for part in parts:
        number = {name: index for index, name in enumerate(name for group in part for name in group)}
        raws.append(
            {
                "state": {number[name]: {"exp_avg": InMemory(torch.zeros(shapes[name]))} for name in number},
                "param_groups": [{"params": [number[name] for name in group]} for group in part],
            }
        )
    possible = all_dealings(shapes, groups)
    try:
        found = [group for optimizer in named(*raws, shapes=shapes) for group in optimizer]
    except OptimizerError as error:
        assert len(possible) > 1 and "more than one order" in str(error)
    else:
        flat = tuple(name for group in found for name in group)
        fitting = {tuple(name for group in dealing for name in group) for dealing in possible}
        # the model's own order, and decay before no decay, are what trainers write: they win over odder ones
        decayed = [name for name in shapes if len(shapes[name]) > 1]
        vectors = [name for name in shapes if len(shapes[name]) == 1]
        usual = {tuple(shapes), (*decayed, *vectors), (*vectors, *decayed)}
        assert len(fitting) == 1 or flat in usual
        assert [shapes[name] for name in flat] == [shapes[name] for group in groups for name in group]
