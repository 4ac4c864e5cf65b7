"""More positions: rows of a learned table and their moments, or the config alone, against torch and transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoModelForCausalLM

import ckptgrow
from ckptgrow import RequestError, VerifySettings
from tests.helpers.families import CASES, InFloat64, adamw, batches, difference, loaded, outputs, perturbed, saved
from tests.helpers.gpt2 import POSITIONS, logits, perturbed_gpt2, token_batches
from tests.helpers.lightning_files import HEADS, save_lightning, state_of, trained_checkpoint

TABLES = {  # case: the table, its rows before those that tokens use
    "gpt2": ("model.transformer.wpe.weight", 0),
    "gpt_bigcode": ("model.transformer.wpe.weight", 0),
    "opt": ("model.model.decoder.embed_positions.weight", 2),
    "bert": ("model.bert.embeddings.position_embeddings.weight", 0),
    "roberta": ("model.roberta.embeddings.position_embeddings.weight", 2),
    "distilbert": ("model.distilbert.embeddings.position_embeddings.weight", 0),
    "biogpt": ("model.biogpt.embed_positions.weight", 2),
    "gpt_neo": ("model.transformer.wpe.weight", 0),
    "xlm-roberta": ("model.roberta.embeddings.position_embeddings.weight", 2),
    "camembert": ("model.roberta.embeddings.position_embeddings.weight", 2),
    "bart": ("model.model.encoder.embed_positions.weight", 2),
    "mbart": ("model.model.decoder.embed_positions.weight", 2),
}
LEARNED = (
    "gpt_neo untied",
    "bart scaled",
    "mbart unscaled",
    "opt projected",
    "gpt_bigcode of many key heads",
    "distilbert untied",
    "biogpt unscaled",
    "biogpt untied",
)
WITHOUT = ("vit", "t5", "mt5", "bloom", "pegasus", "mamba", "mamba2", "falcon_mamba")  # patches, distances, sines
FIELDS = {"gptj": "n_positions", "codegen": "n_positions", "mpt": "max_seq_len"}  # of the longest sequence
OTHERS = [case for case in CASES if case not in TABLES and CASES[case][0] not in WITHOUT]
ROTARY = [case for case in OTHERS if case not in LEARNED and CASES[case][0] != "ministral3"]


@pytest.mark.parametrize("case", TABLES)
def test_longer_tables_change_nothing_at_old_lengths(tmp_path: Path, case: str) -> None:
    name, first = TABLES[case]
    small = saved(tmp_path / "small.ckpt", perturbed(case), adamw)
    size = 34 if "roberta" in name else 32
    told = ckptgrow.positions(small, tmp_path / "grown.ckpt", size=size + 7)
    assert told.new["position"] == size + 7
    before, after = (state_of(one)["weights"][name] for one in (small, tmp_path / "grown.ckpt"))
    used = len(before) - first
    assert torch.equal(after[: len(before)], before) and len(after) == len(before) + 7
    assert torch.equal(after[len(before) :], before[[first + place % used for place in range(used, used + 7)]])
    assert difference(loaded(small)[0], loaded(tmp_path / "grown.ckpt")[0]) == (0.0, 0.0)
    report = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(steps=3, batches=1))
    assert report.passed and report.function.max_abs_logit_diff == 0.0, report.sentences
    assert report.trajectory is not None and report.trajectory.judged and report.trajectory.max_abs_loss_diff == 0.0


def test_a_longer_table_serves_longer_sequences_and_its_new_rows_have_no_moments(tmp_path: Path) -> None:
    small = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.positions(small, tmp_path / "grown.ckpt", size=2 * POSITIONS + 1)
    model, tree = loaded(tmp_path / "grown.ckpt")
    tokens = torch.cat([token_batches(1)[0]] * 2, 1)
    assert torch.isfinite(logits(model, tokens)).all()
    record = tree["optimizer_states"][0]["state"][1]
    old = state_of(small)["optimizers"][0]["state"][1]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(record[key][:POSITIONS], old[key]) and not record[key][POSITIONS:].any()


def test_a_position_that_the_grown_model_reads_gets_the_gradient_that_it_had(tmp_path: Path) -> None:
    """By autograd: old rows' gradients are equal, new rows' are zero at old lengths."""
    small = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.positions(small, tmp_path / "grown.ckpt", size=POSITIONS + 5)
    gradients: list[torch.Tensor] = []
    for path in (small, tmp_path / "grown.ckpt"):
        model = loaded(path)[0]
        model(input_ids=token_batches(1)[0]).logits.square().mean().backward()
        gradient = model.get_parameter("transformer.wpe.weight").grad
        assert gradient is not None
        gradients.append(gradient)
    assert torch.equal(gradients[1][:POSITIONS], gradients[0]) and not gradients[1][POSITIONS:].any()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("size", [1, 30, 32])
def test_stretched_tables_are_torchs_own_interpolation(tmp_path: Path, case: str, size: int) -> None:
    name, first = TABLES[case]
    small = saved(tmp_path / "small.ckpt", perturbed(case), adamw)
    old_size = 34 if "roberta" in name else 32
    ckptgrow.positions(small, tmp_path / "grown.ckpt", size=old_size + size, new="interpolate")
    trees = [state_of(one) for one in (small, tmp_path / "grown.ckpt")]
    number = list(dict(loaded(small)[0].named_parameters())).index(name.removeprefix("model."))
    records = [tree["optimizers"][0]["state"][number] for tree in trees]
    pairs = [[tree["weights"][name] for tree in trees]]
    pairs += [[one[key] for one in records] for key in ("exp_avg", "exp_avg_sq")]
    for before, after in pairs:
        table = before[first:].t()[None]
        expected = interpolate(table, size=len(after) - first, mode="linear", align_corners=True)[0].t()
        assert torch.equal(after[:first], before[:first])
        assert torch.allclose(after[first:], expected, rtol=1e-12, atol=1e-14 * float(before.abs().max()))
    report = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(steps=2, batches=1))
    assert report.structure.passed and report.moments is not None and report.moments.passed, report.sentences
    assert not report.function.passed and any("positions were stretched" in one for one in report.sentences)
    assert report.trajectory is not None and not report.trajectory.judged


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", ROTARY)
def test_where_positions_are_computed_the_config_alone_changes(tmp_path: Path, case: str) -> None:
    small = saved(tmp_path / "small.ckpt", perturbed(case), adamw)
    told = ckptgrow.positions(small, tmp_path / "grown.ckpt", size=64)
    assert any("of the config alone" in note for note in told.notes)
    before, after = (torch.load(one, weights_only=True) for one in (small, tmp_path / "grown.ckpt"))
    assert all(torch.equal(one, before["state_dict"][name]) for name, one in after["state_dict"].items())
    configs = [one["hyper_parameters"]["config"] for one in (before, after)]
    fields = {key for key in configs[1] if configs[1][key] != configs[0].get(key)}
    field = FIELDS.get(CASES[case][0], "max_position_embeddings")
    assert fields >= {field} and configs[1][field] == 64
    longer = AutoConfig.for_model(**configs[1])
    model = HEADS.get(longer.model_type, AutoModelForCausalLM).from_config(longer).double().eval()
    assert getattr(model.config, field) == 64
    old, new = loaded(small)[0], loaded(tmp_path / "grown.ckpt")[0]
    (tokens,) = batches(1)
    with torch.no_grad(), InFloat64():
        assert torch.equal(outputs(old, tokens), outputs(new, tokens))
    report = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=VerifySettings(batches=1))
    assert report.passed, report.sentences


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] in WITHOUT])
def test_models_without_a_number_of_positions_are_refused(tmp_path: Path, case: str) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed(case))
    words = r"has no number of positions|cannot grow in positions exactly: its positions are sines"
    with pytest.raises(RequestError, match=words):
        ckptgrow.positions(tmp_path / "small.ckpt", tmp_path / "out.ckpt", size=64)
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] == "ministral3"])
def test_positions_whose_scaling_depends_on_their_number_are_refused(tmp_path: Path, case: str) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed(case))
    with pytest.raises(RequestError, match="of the kind yarn, which depends on max_position_embeddings"):
        ckptgrow.positions(tmp_path / "small.ckpt", tmp_path / "out.ckpt", size=64)
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.parametrize(
    ("case", "options", "words"),
    [
        ("gpt2", {"size": 32}, "expected more than the old size, 32"),
        ("gpt2", {"size": 0}, "expected a whole number, 1 to"),
        ("llama", {"size": 32}, "expected more than the old size, 32"),
        ("llama", {"size": 64, "new": "interpolate"}, "expected copy, for positions are computed"),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path: Path, case: str, options: dict[str, object], words: str) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed(case))
    with pytest.raises(RequestError, match=words):
        ckptgrow.positions(tmp_path / "small.ckpt", tmp_path / "out.ckpt", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out.ckpt").exists()


def test_rows_that_lie_at_whole_places_are_the_old_bytes(tmp_path: Path) -> None:
    """From 16 to 31 every second row is an old one."""
    small = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2())
    ckptgrow.positions(small, tmp_path / "grown.ckpt", size=2 * POSITIONS - 1, new="interpolate")
    before, after = (
        state_of(one)["weights"]["model.transformer.wpe.weight"] for one in (small, tmp_path / "grown.ckpt")
    )
    assert torch.equal(after[::2], before)
    assert np.allclose(after[1::2], (before[:-1] + before[1:]) / 2, rtol=1e-14, atol=1e-16)
