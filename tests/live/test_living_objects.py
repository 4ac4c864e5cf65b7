"""What living objects have that no file tells, and what is refused because nothing could carry it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.optim import lr_scheduler
from transformers import AutoConfig, GPT2LMHeadModel, PreTrainedModel

import ckptgrow
from ckptgrow import CkptgrowError, RequestError, StateRequest
from ckptgrow.live.live_tensors import live
from tests.helpers.families import batches, outputs, perturbed


class OwnModel(GPT2LMHeadModel):
    """A user's class over transformers' own."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.kept_beside = "a setting"


def small(family: str = "gpt2") -> PreTrainedModel:
    return perturbed(family).float()


def stepped(model: PreTrainedModel, kind: Any = torch.optim.AdamW, **options: Any) -> torch.optim.Optimizer:
    optimizer = kind([one for one in model.parameters() if one.requires_grad], **{"lr": 1e-3, **options})
    for tokens in batches(2):
        outputs(model, tokens).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_ties_stay_ties_and_separate_heads_stay_separate() -> None:
    tied = ckptgrow.grow(small("llama tied"), width=2).model
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    model = small("llama tied")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    optimizer = stepped(model)
    grown = ckptgrow.grow(model, optimizer, width=2)
    assert grown.model.lm_head.weight is not grown.model.get_input_embeddings().weight
    assert grown.model.config.tie_word_embeddings is False and model.config.tie_word_embeddings is True
    tokens = batches(1)[0]
    assert torch.allclose(outputs(grown.model, tokens), outputs(model, tokens), atol=1e-5)
    assert len(grown.optimizer.state) == len(optimizer.state) == len(list(model.parameters()))


@pytest.mark.parametrize("tensor", [torch.ones(3, 2), torch.ones(())])
def test_what_reads_a_living_tensor_gets_numbers_of_its_own(tensor: torch.Tensor) -> None:
    live(tensor, "a weight").rows(0, 1).zero_()
    assert bool((tensor == 1).all())


def test_who_is_tied_is_seen_by_the_objects_whatever_config_and_values_say() -> None:
    parted = small("llama tied")
    parted.lm_head.weight = nn.Parameter(parted.lm_head.weight.detach().clone())  # equal, and yet not the same
    optimizer = torch.optim.AdamW(parted.parameters())
    grown = ckptgrow.grow(parted, optimizer, width=2)
    assert grown.model.lm_head.weight is not grown.model.get_input_embeddings().weight
    assert len(grown.optimizer.param_groups[0]["params"]) == len(list(parted.parameters()))
    joined = small("llama")
    assert joined.config.tie_word_embeddings is False
    joined.lm_head.weight = joined.get_input_embeddings().weight
    assert (deep := ckptgrow.grow(joined, depth=2).model).lm_head.weight is deep.get_input_embeddings().weight


def test_a_bfloat16_model_stays_one_and_float32_moments_stay_float32() -> None:
    model = small("llama").bfloat16()
    optimizer = stepped(model)
    for record in optimizer.state.values():
        record["exp_avg"] = record["exp_avg"].float()
    grown = ckptgrow.grow(model, optimizer, width=2)
    assert {one.dtype for one in grown.model.state_dict().values()} == {torch.bfloat16}
    dtypes = {name: one.dtype for name, one in model.named_buffers()}
    assert dtypes and dtypes == {name: one.dtype for name, one in grown.model.named_buffers()}
    assert {record["exp_avg"].dtype for record in grown.optimizer.state.values()} == {torch.float32}
    assert {record["exp_avg_sq"].dtype for record in grown.optimizer.state.values()} == {torch.bfloat16}
    tokens = batches(1)[0]
    assert torch.equal(outputs(grown.model, tokens), outputs(model, tokens))  # each old weight lies in one copy, whole


def test_what_is_frozen_stays_frozen_in_copies_of_layers_too() -> None:
    model = small("llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1." in name)
    grown = ckptgrow.grow(model, stepped(model), layers=[0, 1, 1])
    learning = {name.split(".")[2] for name, one in grown.model.named_parameters() if one.requires_grad}
    assert learning == {"1", "2"}
    frozen = [one for one in grown.model.parameters() if not one.requires_grad]
    assert len(frozen) == len(list(grown.model.parameters())) - 2 * 9
    assert {id(one) for one in grown.optimizer.param_groups[0]["params"]}.isdisjoint(map(id, frozen))


def test_modes_checkpointed_gradients_and_settings_stay() -> None:
    model = small("llama").train()
    model.model.layers[1].mlp.eval()
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.generation_config.max_length = 77
    model.config.note = {"of the user": 1}
    grown = ckptgrow.grow(model, layers=[0, 1, 1]).model
    assert grown.training and [one.mlp.act_fn.training for one in grown.model.layers] == [True, False, False]
    assert [one.gradient_checkpointing for one in grown.model.layers] == [True] * 3
    assert grown.model.layers[2]._gradient_checkpointing_func.keywords["use_reentrant"] is True
    assert grown.generation_config.max_length == 77 and grown.config.note == {"of the user": 1}
    assert grown.config._attn_implementation == model.config._attn_implementation
    assert grown.config is not model.config and model.config.num_hidden_layers == 2


def test_a_class_of_the_users_own_is_made_again_and_random_numbers_go_on() -> None:
    model = OwnModel(small().config)
    state = torch.get_rng_state()
    grown = ckptgrow.grow(model, width=2, separate="noise", noise=0.1).model
    assert type(grown) is OwnModel and grown.kept_beside == "a setting" and grown.config.n_embd == 32
    assert torch.equal(state, torch.get_rng_state())


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda model: compiled(nn.DataParallel(model))])
def test_what_wraps_the_model_is_taken_off(wrap: Callable[[Any], nn.Module]) -> None:
    model = small("llama")
    optimizer = stepped(model)
    plain = ckptgrow.grow(model, optimizer, width=2)
    model.model.layers[0] = compiled(model.model.layers[0])
    wrapped = ckptgrow.grow(wrap(model), optimizer, width=2)
    assert type(wrapped.model) is type(model)
    assert_equal(dict(plain.model.named_parameters()), dict(wrapped.model.named_parameters()))


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accelerates_wrappers_are_taken_off() -> None:
    from accelerate import Accelerator

    model = small("llama")
    inner = stepped(model)
    optimizer, scheduler = Accelerator(cpu=True).prepare(inner, lr_scheduler.StepLR(inner, 3))
    grown = ckptgrow.grow(model, optimizer, scheduler, width=2)
    assert type(grown.optimizer) is torch.optim.AdamW and type(grown.scheduler) is lr_scheduler.StepLR
    assert grown.scheduler.optimizer is grown.optimizer


def test_schedules_of_functions_move_by_the_functions_themselves() -> None:
    def falling(step: int) -> float:
        return 0.8**step

    model = small()
    optimizer = stepped(model, lr=1e-3)
    scheduler = lr_scheduler.LambdaLR(optimizer, falling)
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    request = StateRequest(step=4, lr_rule="mup")
    grown = ckptgrow.grow(model, optimizer, scheduler, width=2, separate="none", request=request)
    assert grown.report.step == (9, 4) and grown.scheduler.last_epoch == 4
    assert all(one is falling for one in grown.scheduler.lr_lambdas) and len(grown.scheduler.lr_lambdas) > 1
    for group, base in zip(grown.optimizer.param_groups, grown.scheduler.base_lrs, strict=True):
        assert group["lr"] == pytest.approx(base * falling(4), rel=1e-12)
    matrix = grown.model.transformer.h[0].mlp.c_fc.weight
    place = next(
        number
        for number, group in enumerate(grown.optimizer.param_groups)
        if any(one is matrix for one in group["params"])
    )
    assert grown.scheduler.base_lrs[place] == pytest.approx(1e-3 / 2, rel=1e-12)  # Adam's update of a matrix over 2
    factors = lr_scheduler.MultiplicativeLR(optimizer, falling)
    with pytest.raises(RequestError, match="its function is in your script"):
        ckptgrow.grow(model, optimizer, factors, width=2, global_step=9, request=StateRequest(step=4))


def test_a_model_alone_grows_and_a_schedule_that_never_stepped_warns_of_nothing() -> None:
    grown = ckptgrow.grow(small(), ffn=44)
    assert grown.optimizer is None and grown.scheduler is None and grown.model.config.n_inner == 44
    assert grown.report.grown is None and len(grown.report.record["source_sha256"]) == 64
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    fresh = ckptgrow.grow(model, optimizer, lr_scheduler.StepLR(optimizer, 2), width=2)
    assert fresh.optimizer is not None and not fresh.optimizer.state
    fresh.optimizer.step()
    fresh.scheduler.step()


def with_other_parameters() -> Any:
    model, other = small(), nn.Linear(3, 3)
    named = [*model.named_parameters(), *((f"critic.{name}", one) for name, one in other.named_parameters())]
    return model, torch.optim.AdamW(named)


def with_its_small_model_gone() -> Any:
    return small(), stepped(small())


def with_shared_layers() -> Any:
    model = small("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    return model, None


def with_an_adapter() -> Any:
    model = small("llama")
    model.model.layers[0].mlp.register_parameter("adapter", nn.Parameter(torch.zeros(3)))
    return model, None


def on_meta() -> Any:
    return small("llama").to("meta"), None


def with_another_optimizer() -> Any:
    model = small("llama")
    return model, stepped(model, torch.optim.Adadelta)


def with_a_scheduler_of_another() -> Any:
    model = small("llama")
    other = stepped(model)
    return model, stepped(model), lr_scheduler.StepLR(other, 3)


def with_two_schedulers() -> Any:
    model = small("llama")
    optimizer = stepped(model)
    return model, optimizer, [lr_scheduler.StepLR(optimizer, 3), lr_scheduler.StepLR(optimizer, 4)]


REFUSED = {
    with_other_parameters: r"the live model: optimizer 0: group 0 has parameters that are not the model's "
    r"\(critic.bias \[3\], critic.weight \[3, 3\]\), expected the optimizer of this model alone",
    with_its_small_model_gone: r"parameters that are not the model's \(parameter 0 \[40, 16\], .* and 23 more\)",
    with_shared_layers: "model.layers.0.mlp.gate_proj.weight, model.layers.1.mlp.gate_proj.weight are one tensor",
    with_an_adapter: "claims no tensor named model.layers.0.mlp.adapter",
    on_meta: "lm_head.weight is on the meta device, expected a plain tensor|embed_tokens.weight is on the meta device",
    with_another_optimizer: "optimizer 0: ",
    with_a_scheduler_of_another: "scheduler 0 sets the rates of an optimizer that was not given",
    with_two_schedulers: "scheduler 1 is not its only one, expected one scheduler for each optimizer",
}


@pytest.mark.parametrize("made", REFUSED)
def test_what_cannot_be_carried_is_refused_by_its_name(made: Callable[[], Any]) -> None:
    with pytest.raises(CkptgrowError, match=REFUSED[made]) as refusal:
        ckptgrow.grow(*made(), width=2)
    assert "\n" not in str(refusal.value)


def one_norm(model: Any) -> Any:
    norm = model.model.norm
    norm.weight = nn.Parameter(distribute_tensor(norm.weight.detach(), init_device_mesh("cpu", (1,))))
    return model


def with_fsdp(model: Any, **options: Any) -> Any:
    """FullyShardedDataParallel, the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of one process alone, and of its own end
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **options)


def inside_fsdp(model: Any) -> Any:
    with_fsdp(model, use_orig_params=True)
    return model


def with_fully_shard(model: Any) -> Any:
    """The second."""
    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


SHARDED = {
    one_norm: "model.norm.weight is a DTensor, one process's part",
    with_fully_shard: "model.embed_tokens.weight is a DTensor, one process's part of a sharded tensor, expected whole "
    "tensors; save the run with torch.distributed.checkpoint and grow that",
    with_fsdp: "_flat_param is a part of what FullyShardedDataParallel has flattened, expected whole tensors; save",
    lambda model: with_fsdp(model, use_orig_params=True): "embed_tokens.weight is a part of what FullyShardedDataPar",
    inside_fsdp: "model.embed_tokens.weight is a part of what FullyShardedDataParallel has flattened",
}


@pytest.fixture
def process_group(tmp_path: Path) -> Generator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("sharded", SHARDED, ids=["norm", "fsdp2", "fsdp", "fsdp's views", "inside fsdp"])
def test_sharded_tensors_are_refused_with_what_to_do(process_group: None, sharded: Callable[[Any], Any]) -> None:
    model = sharded(small("llama"))
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(CkptgrowError) as refusal:
        ckptgrow.grow(model, optimizer, width=2)
    assert SHARDED[sharded] in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "growth is asked for in no way"),
        ({"seed": 3}, "growth is asked for in no way"),
        ({"width": 2, "depth": 2}, "growth is asked for in width and depth, expected one"),
        ({"ffn": 40, "every": 1}, "growth is asked for in width and depth, expected one"),
        ({"width": 2, "place": "append"}, 'place="append": is not an option of growth in width'),
        ({"depth": 2, "noise": 0.1}, "noise=0.1: is not an option of growth in depth"),
        ({"width": 1}, "factor=1: expected a whole number, at least 2"),
        ({"width": 2, "request": StateRequest(force=True)}, "is about files"),
        ({"width": 2, "request": StateRequest(drop=("a",))}, "is about files"),
        ({"width": 2, "request": StateRequest(rewarm=10)}, "rewarm=10: there are no rates to rise"),
        ({"width": 2, "request": StateRequest(reset=("optimizer",))}, "give grow no optimizer instead"),
        ({"width": 2, "request": StateRequest(step=3)}, "the checkpoint has no global step to move"),
    ],
)
def test_what_is_asked_for_in_vain_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as refusal:
        ckptgrow.grow(small(), **options)
    assert said in str(refusal.value)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.DataParallel(nn.Linear(2, 2))])
def test_what_is_no_transformers_model_is_refused(model: nn.Module) -> None:
    with pytest.raises(RequestError, match="is not a transformers model"):
        ckptgrow.grow(model, width=2)


def test_a_class_that_needs_more_than_a_config_is_refused() -> None:
    class Needy(GPT2LMHeadModel):
        def __init__(self, config: Any, more: int) -> None:
            super().__init__(config)

    model = Needy(AutoConfig.for_model("gpt2", n_embd=8, n_head=2, n_layer=1, vocab_size=10), 3)
    with pytest.raises(RequestError, match="no Needy could be made of the grown config"):
        ckptgrow.grow(model, width=2)
