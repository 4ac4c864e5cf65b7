"""State that no rule reads is an error with a way out; what is harmless stays behind or goes along."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ckptgrow
from ckptgrow import StateRequest
from ckptgrow.cli import run
from ckptgrow.errors import OptimizerError, RequestError
from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning

RESET = StateRequest(reset=("optimizer",))


def saved(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    model: Any = perturbed_gpt2()
    model.to(dtype)
    model.save_pretrained(path)
    return model


def put(path: Path, content: object = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"x": torch.zeros(3)} if content is None else content, path)


STATES: dict[str, Callable[[Path, Any], object]] = {
    "global_step5": lambda path, model: put(path / "global_step5" / "mp_rank_00_model_states.pt"),
    "zero_to_come": lambda path, model: put(path / "zero_to_come" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    "optimizer_0": lambda path, model: put(path / "optimizer_0" / "__0_0.distcp"),
    "optimizer.safetensors": lambda path, model: save_file({"m": torch.zeros(3)}, path / "optimizer.safetensors"),
    "zero_pp_rank_0_mp_rank_00_optim_states.pt": lambda path, model: (
        path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    ).write_bytes(b"\x80\x04."),
    "pytorch_model.bin": lambda path, model: put(
        path / "pytorch_model.bin", {name: one.float() for name, one in model.state_dict().items()}
    ),
    "master.safetensors": lambda path, model: save_file(
        {name: one.float().contiguous() for name, one in model.named_parameters()}, path / "master.safetensors"
    ),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("operator", ["width", "depth"])
def test_state_that_no_rule_reads_is_refused_and_goes_by_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, operator: str
) -> None:
    model = saved(tmp_path / "small", torch.bfloat16)
    STATES[name](tmp_path / "small", model)
    capsys.readouterr()
    command = [operator, str(tmp_path / "small"), str(tmp_path / "grown")]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and name in error and "--reset optimizer" in error
    assert not (tmp_path / "grown").exists()
    assert run([*command, "--reset", "optimizer"]) == 0
    assert f"does without: {name}" in capsys.readouterr().out.replace("\n", " ")
    found = ckptgrow.inspect(tmp_path / "small")
    assert found.optimizer is not None and name in found.optimizer["unmatched"]
    assert any(name in problem for problem in found.problems)
    assert run(["inspect", str(tmp_path / "small")]) == 0
    assert "there, not read" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pytorch_model.bin", "logs", "checkpoint-5", "README.md", "notes.pt", "original"])
def test_what_is_harmless_is_not_refused(tmp_path: Path, name: str) -> None:
    """Among it the same weights in the same precision."""
    model = saved(tmp_path / "small")
    place = tmp_path / "small" / name
    if name == "pytorch_model.bin":
        torch.save(model.state_dict(), place)
    elif name.endswith((".md", ".pt")):
        place.write_text("some words")
    else:
        put(place / ("optimizer.pt" if name == "checkpoint-5" else "events.pth"))
    ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    assert ckptgrow.inspect(tmp_path / "small").optimizer is None


def test_masters_are_left_out_by_name_too(tmp_path: Path) -> None:
    model = saved(tmp_path / "small", torch.bfloat16)
    STATES["pytorch_model.bin"](tmp_path / "small", model)
    ckptgrow.width(tmp_path / "small", tmp_path / "grown", request=StateRequest(drop=("pytorch_model.bin",)))


@pytest.mark.parametrize("kind", ["lightning", "directory"])
def test_an_optimizer_that_does_not_match_is_refused_told_and_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW([*reversed(list(model.parameters()))], lr=1e-3)
    train(model, optimizer, token_batches(1))
    path = tmp_path / ("small.ckpt" if kind == "lightning" else "small")
    if kind == "lightning":
        save_lightning(path, model, [optimizer])
    else:
        model.save_pretrained(path)
        torch.save(optimizer.state_dict(), path / "optimizer.pt")
    with pytest.raises(OptimizerError, match="in no order"):
        ckptgrow.width(path, tmp_path / "grown")
    ckptgrow.width(path, tmp_path / "grown", request=RESET)
    found = ckptgrow.inspect(path).optimizer
    assert found is not None and "in no order" in found["unmatched"] and found["num_parameters_with_state"] == 28
    capsys.readouterr()
    assert run(["inspect", str(path)]) == 0
    words = capsys.readouterr().out.replace("\n", " ")
    assert "AdamW" in words and "not matched" in words and "optimizer\tnone" not in words


def test_an_optimizer_of_an_unknown_model_is_told(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, token_batches(1))
    path = save_lightning(tmp_path / "small.ckpt", model, [optimizer], hyper_parameters={})
    found = ckptgrow.inspect(path).optimizer
    assert found is not None and found["name"] == "AdamW" and found["unmatched"]


@pytest.mark.parametrize("lost", ["record", "group"])
def test_a_parameter_without_a_record_among_others_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    model = perturbed_gpt2()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters[1:] if lost == "group" else parameters, lr=1e-3)
    train(model, optimizer, token_batches(1))
    if lost == "record":
        del optimizer.state[parameters[0]]
    path = save_lightning(tmp_path / "small.ckpt", model, [optimizer])
    done = ckptgrow.width(path, tmp_path / "grown.ckpt", noise=0)
    assert any("no record of model.transformer.wte.weight: frozen, or lost?" in note for note in done.notes)
    found = ckptgrow.inspect(path).optimizer
    assert found is not None and found["without_record"] == ["model.transformer.wte.weight"]
    assert run(["inspect", str(path)]) == 0
    assert "frozen, or lost?" in capsys.readouterr().out


def test_a_whole_optimizer_has_no_such_note(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, token_batches(1))
    done = ckptgrow.width(save_lightning(tmp_path / "small.ckpt", model, [optimizer]), tmp_path / "grown.ckpt", noise=0)
    assert not any("record" in note for note in done.notes)


@pytest.mark.parametrize("operator", ["width", "depth"])
def test_the_small_runs_best_checkpoint_is_cleared_and_the_rest_of_the_trainers_state_stays(
    tmp_path: Path, operator: str
) -> None:
    model = saved(tmp_path / "small")
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, token_batches(1))
    torch.save(optimizer.state_dict(), tmp_path / "small" / "optimizer.pt")
    best = {"best_metric": 1.5, "best_model_checkpoint": "out/checkpoint-3", "best_global_step": 3}
    state = {"epoch": 0.5, "global_step": 5, "log_history": [{"loss": 2.0, "step": 1}], "best_of": "others", **best}
    (tmp_path / "small" / "trainer_state.json").write_text(json.dumps(state))
    done = getattr(ckptgrow, operator)(tmp_path / "small", tmp_path / "grown")
    found = json.loads((tmp_path / "grown" / "trainer_state.json").read_text())
    assert found == {**state, **dict.fromkeys(best)}
    assert any("best_model_checkpoint" in note and "cleared" in note for note in done.notes)
    again = getattr(ckptgrow, operator)(tmp_path / "grown", tmp_path / "again")
    assert not any("cleared" in note for note in again.notes)


def test_a_run_with_partitions_beside_it_is_not_resumed_without_them(tmp_path: Path) -> None:
    from ckptgrow.formats.known_formats import read_checkpoint
    from ckptgrow.train.adoption import adopted

    saved(tmp_path / "small")
    put(tmp_path / "small" / "global_step5" / "mp_rank_00_model_states.pt")
    with pytest.raises(RequestError, match="global_step5"):
        adopted(read_checkpoint(tmp_path / "small"), None, dialect=None, with_optimizer=True)
    adopted(read_checkpoint(tmp_path / "small"), None, dialect=None, with_optimizer=False)
