"""More tokens, or other ones: rows, moments and numbers of tokens, against torch, autograd and the tokenizers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import ckptgrow
from ckptgrow import RequestError, StateRequest
from ckptgrow.choices import RowInit
from tests.helpers.families import CASES, InFloat64, adamw, batches, loaded, outputs, perturbed, saved
from tests.helpers.gpt2 import VOCABULARY, perturbed_gpt2, token_batches, train
from tests.helpers.lightning_files import save_lightning, state_of, trained_checkpoint
from tests.helpers.vocabularies import END, LONGER, MARK, NEW, OLD, PAD, ROWS, WORD, model_directory, tokenizer

MORE = 7
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BIASED = ("bart", "mbart", "pegasus")  # whose files have a bias for every token, which is no parameter
OF_TOKENS = [case for case in CASES if case != "vit" and CASES[case][0] not in BIASED]


def masked_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The loss over the old tokens alone."""
    logits = model(input_ids=tokens).logits[..., :VOCABULARY]
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("case", BIASED)
def test_a_bias_of_every_token_that_is_no_parameter_is_refused(tmp_path: Path, case: str) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed(case))
    with pytest.raises(RequestError, match=r"cannot grow in vocab exactly: .*final_logits_bias"):
        ckptgrow.vocab(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", size=47)
    assert not (tmp_path / "grown.ckpt").exists()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", OF_TOKENS)
def test_in_every_family_old_logits_stay_and_the_loss_rises_by_less_than_the_bound(tmp_path: Path, case: str) -> None:
    small = saved(tmp_path / "small.ckpt", perturbed(case), adamw)
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=40 + MORE)
    old, new = loaded(small)[0], loaded(tmp_path / "grown.ckpt")[0]
    for tokens in batches(2):
        with torch.no_grad(), InFloat64():
            before, after = outputs(old, tokens), outputs(new, tokens)
        # a matrix of other sizes may be multiplied by sums in another order
        assert float((after[..., :40] - before).abs().max()) <= 1e-14 * float(before.abs().max())
        rise = after.logsumexp(-1) - before.logsumexp(-1)
        assert float(rise.min()) > 0
        if case != "gemma2":  # it caps its logits, and a capped mean may be more than the mean of capped ones
            assert float(rise.max()) <= math.log1p(MORE / 40)
    report = ckptgrow.verify(small, tmp_path / "grown.ckpt", settings=ckptgrow.VerifySettings(steps=3, batches=2))
    assert report.passed, report.sentences
    assert report.function.max_abs_logit_diff == 0.0  # to the bit
    assert report.trajectory is not None and report.trajectory.judged and report.trajectory.max_abs_loss_diff < 1e-14


def test_moments_of_old_tokens_are_those_of_a_model_that_had_the_rows_from_the_beginning(tmp_path: Path) -> None:
    """Under the loss over old tokens, by torch's own AdamW, in float64."""
    grown_first = perturbed_gpt2()
    save_lightning(tmp_path / "untrained.ckpt", grown_first)
    ckptgrow.vocab(tmp_path / "untrained.ckpt", tmp_path / "wide.ckpt", size=VOCABULARY + MORE)
    wide = perturbed_gpt2(vocab_size=VOCABULARY + MORE)
    weights = state_of(tmp_path / "wide.ckpt")["weights"]
    wide.load_state_dict({name.removeprefix("model."): one for name, one in weights.items()})
    optimizer = torch.optim.AdamW(wide.parameters(), lr=1e-3)
    for tokens in token_batches(5):
        optimizer.zero_grad()
        masked_loss(wide, tokens).backward()
        optimizer.step()
    trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), lambda these: torch.optim.AdamW(these, lr=1e-3))
    ckptgrow.vocab(tmp_path / "small.ckpt", tmp_path / "grown.ckpt", size=VOCABULARY + MORE)
    found = state_of(tmp_path / "grown.ckpt")["optimizers"][0]["state"]
    for number, parameter in enumerate(wide.parameters()):
        expected = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            one, other = found[number][key], expected[key]
            rows = slice(0, VOCABULARY) if number == 0 else slice(None)
            assert torch.allclose(one[rows], other[rows], rtol=1e-9, atol=1e-15), (
                number,
                key,
            )  # key biases: rounding alone


def test_the_mean_of_a_heads_gradients_is_the_zero_that_new_rows_have(tmp_path: Path) -> None:
    model = perturbed("llama")
    (tokens,) = batches(1)
    logits = model(input_ids=tokens).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    head = model.get_parameter(HEAD).grad
    assert head is not None and float(head.abs().max()) > 1e-3
    assert float(head.mean(0).abs().max()) < 1e-12
    small = saved(tmp_path / "small.ckpt", perturbed("llama"), adamw)
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=40 + MORE)
    tree = loaded(tmp_path / "grown.ckpt")[1]
    names = list(dict(loaded(small)[0].named_parameters()))
    for name in (EMBEDDING, HEAD):
        record = tree["optimizer_states"][0]["state"][names.index(name)]
        assert not record["exp_avg"][40:].any()
        assert torch.equal(record["exp_avg_sq"][40:], rare(record["exp_avg_sq"][:40]).expand(MORE, -1))


def rare(squares: torch.Tensor) -> torch.Tensor:
    """The lower median over the tenth of the rows that has the least, of rows above zero, by numpy's sorting."""
    rows = squares.numpy()
    seen = rows[rows.any(1)]
    least = seen[np.argsort(seen.mean(1), kind="stable")][: math.ceil(len(seen) / 10)]
    return torch.from_numpy(np.sort(least, axis=0)[(len(least) - 1) // 2])


def test_rows_that_saw_no_gradient_are_no_rare_tokens(tmp_path: Path) -> None:
    """Of an untied embedding most rows have second moments of zero; new rows have those of the others."""
    model = perturbed("llama", seed=3)
    small = saved(tmp_path / "small.ckpt", model, adamw)
    tree = loaded(small)[1]
    squares = tree["optimizer_states"][0]["state"][0]["exp_avg_sq"]
    squares[:30] = 0.0
    torch.save(tree, small)
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=41)
    found = loaded(tmp_path / "grown.ckpt")[1]["optimizer_states"][0]["state"][0]["exp_avg_sq"]
    assert torch.equal(found[40], rare(squares)) and float(found[40].min()) > 0
    assert ckptgrow.verify(small, tmp_path / "grown.ckpt").passed


@pytest.mark.sampled(3)
@pytest.mark.parametrize("init", ["mean", "pieces", "copy"])
@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_what_the_old_tokenizer_makes_of_them(tmp_path: Path, init: RowInit, tied: bool) -> None:
    small, out = model_directory(tmp_path / "small", tied=tied), tmp_path / "out"
    ckptgrow.vocab(small, out, tokenizer=str(tokenizer(LONGER)), pad_to=64, init=init)
    before, after = load_file(small / "model.safetensors"), load_file(out / "model.safetensors")
    old, new = (AutoTokenizer.from_pretrained(one) for one in (small, out))
    assert {EMBEDDING: after[EMBEDDING].shape[0]} == {EMBEDDING: 320}
    for name in {EMBEDDING, HEAD} & after.keys():
        table, mean = before[name], before[name].mean(0)
        assert torch.equal(after[name][: len(old)], table[: len(old)])
        for word in (WORD, MARK, PAD):
            pieces = old(word, add_special_tokens=False)["input_ids"]
            is_mean = init == "mean" or (init == "pieces" and name == HEAD)
            expected = mean if is_mean else table[pieces].mean(0) if init == "pieces" else table[pieces[0]]
            assert torch.allclose(after[name][new.convert_tokens_to_ids(word)], expected, rtol=1e-13, atol=1e-15)
        assert torch.allclose(after[name][len(new) : ROWS], table[len(new) : ROWS], rtol=0, atol=0)  # padding stays
        assert torch.allclose(after[name][ROWS:], mean.expand(320 - ROWS, -1), rtol=1e-13, atol=1e-15)
    assert ckptgrow.verify(small, out).passed


@pytest.mark.parametrize("tied", [True, False])
def test_another_tokenizers_tokens_keep_their_rows_by_their_texts(tmp_path: Path, tied: bool) -> None:
    small, out = model_directory(tmp_path / "small", tied=tied), tmp_path / "out"
    told = ckptgrow.vocab(small, out, tokenizer=str(tokenizer(NEW)))
    before, after = load_file(small / "model.safetensors")[EMBEDDING], load_file(out / "model.safetensors")[EMBEDDING]
    old, new = AutoTokenizer.from_pretrained(small).get_vocab(), AutoTokenizer.from_pretrained(out).get_vocab()
    shared = [text for text in new if text in old]
    assert len(shared) > 256 and any(old[text] != new[text] for text in shared)
    assert all(torch.equal(after[new[text]], before[old[text]]) for text in shared)
    assert any("are of no token any more" in note for note in told.notes)
    assert ckptgrow.verify(small, out, settings=ckptgrow.VerifySettings(steps=3)).passed


def test_what_names_tokens_by_number_follows_them(tmp_path: Path) -> None:
    small, out = model_directory(tmp_path / "small", tied=True), tmp_path / "out"
    new = AutoTokenizer.from_pretrained(tokenizer(NEW))
    names = {**new.get_vocab()}
    texts = [name for name, _ in sorted(names.items(), key=lambda pair: pair[1])]
    moved = [*texts[1:], END]  # the end of text is the last one
    backend = json.loads(new.backend_tokenizer.to_str())
    backend["model"]["vocab"] = {name: number for number, name in enumerate(moved)}
    backend["added_tokens"][0]["id"] = len(moved) - 1
    other = tmp_path / "moved"
    new.save_pretrained(other)
    (other / "tokenizer.json").write_text(json.dumps(backend))
    (other / "tokenizer_config.json").unlink()
    (other / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END})
    )
    ckptgrow.vocab(small, out, tokenizer=str(other))
    last = len(moved) - 1
    config = json.loads((out / "config.json").read_text())
    assert (config["eos_token_id"], config["vocab_size"]) == (last, len(moved))
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [last]
    assert (out / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    before, after = (load_file(one / "model.safetensors")[EMBEDDING] for one in (small, out))
    assert torch.equal(after[last], before[0])
    assert AutoTokenizer.from_pretrained(out).eos_token_id == last
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] <= 5
    assert ckptgrow.verify(small, out).passed


def test_padding_rows_go_and_tokens_do_not(tmp_path: Path) -> None:
    small = model_directory(tmp_path / "small", tied=False)
    tokens = len(AutoTokenizer.from_pretrained(small))
    assert tokens < ROWS
    ckptgrow.vocab(small, tmp_path / "out", size=tokens)
    before, after = (load_file(one / "model.safetensors") for one in (small, tmp_path / "out"))
    assert all(torch.equal(after[name], before[name][:tokens]) for name in (EMBEDDING, HEAD))
    assert ckptgrow.verify(small, tmp_path / "out").passed
    with pytest.raises(RequestError, match=f"has {tokens} tokens, expected at least as many rows"):
        ckptgrow.vocab(small, tmp_path / "less", size=tokens - 1)
    assert not (tmp_path / "less").exists()


def test_bytes_become_tokens_of_several_bytes(tmp_path: Path) -> None:
    """A run of ckptgrow's own on bytes gets a tokenizer; its checkpoint says which one it had."""
    small = trained_checkpoint(
        tmp_path / "small.ckpt",
        perturbed_gpt2(vocab_size=256),
        hyper_parameters={
            "config": perturbed_gpt2(vocab_size=256).config.to_dict(),
            "data": {"directory": "/data", "tokenizer": "bytes"},
        },
    )
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", tokenizer=str(tokenizer(OLD)))
    weights = [state_of(one)["weights"]["model.transformer.wte.weight"] for one in (small, tmp_path / "grown.ckpt")]
    names = AutoTokenizer.from_pretrained(tokenizer(OLD))
    number = names(" growth")["input_ids"][0]
    spelled = names.decode([number]).encode()
    assert len(spelled) > 2
    assert torch.allclose(weights[1][number], weights[0][list(spelled)].mean(0), rtol=1e-13, atol=1e-15)
    assert torch.equal(weights[1][names.eos_token_id], weights[0][0])
    record = torch.load(tmp_path / "grown.ckpt", weights_only=True)["hyper_parameters"]["data"]
    assert record == {"tokenizer": str(tokenizer(OLD))}
    assert ckptgrow.verify(small, tmp_path / "grown.ckpt").passed


def test_a_masked_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Twenty steps of torch's AdamW from the stored states; losses over old tokens are equal."""
    small = trained_checkpoint(tmp_path / "small.ckpt", perturbed_gpt2(), adamw)
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=VOCABULARY + MORE)
    losses: list[list[float]] = []
    for path, size in ((small, VOCABULARY), (tmp_path / "grown.ckpt", VOCABULARY + MORE)):
        state, model = state_of(path), perturbed_gpt2(vocab_size=size)
        model.load_state_dict({name.removeprefix("model."): one for name, one in state["weights"].items()})
        optimizer = adamw(model.parameters())
        optimizer.load_state_dict(state["optimizers"][0])
        losses.append([])
        for tokens in token_batches(20, seed=9):
            optimizer.zero_grad()
            loss = masked_loss(model, tokens)
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_averages_of_the_weights_get_means_of_their_own_rows(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    average = {f"ema.{name}": one * 0.9 for name, one in model.state_dict().items()}
    small = save_lightning(tmp_path / "small.ckpt", model)
    tree = torch.load(small, weights_only=True)
    tree["state_dict"] |= average
    torch.save(tree, small)
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=VOCABULARY + MORE)
    table = state_of(tmp_path / "grown.ckpt")["weights"]["ema.transformer.wte.weight"]
    assert torch.allclose(table[VOCABULARY:], table[:VOCABULARY].mean(0).expand(MORE, -1), rtol=1e-13, atol=1e-15)
    assert ckptgrow.verify(small, tmp_path / "grown.ckpt").passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    small = model_directory(tmp_path / "small", tied=True, dtype=dtype)
    ckptgrow.vocab(small, tmp_path / "out", size=ROWS + 1)
    before, after = (load_file(one / "model.safetensors")[EMBEDDING] for one in (small, tmp_path / "out"))
    assert torch.equal(after[:ROWS], before)
    assert torch.equal(after[ROWS], before.double().mean(0).to(dtype))
    report = ckptgrow.verify(small, tmp_path / "out", settings=ckptgrow.VerifySettings(batches=1))
    assert report.passed and report.function.max_abs_logit_diff == 0.0, report.sentences


REFUSED = {
    "neither": ({}, "expected one of them"),
    "both": ({"size": 50, "tokenizer": "bytes"}, "expected one of them"),
    "same size": ({"size": VOCABULARY}, "the model has what was asked for already"),
    "padding unknown": ({"size": VOCABULARY - 1}, "nothing says which of these are padding"),
    "pieces without texts": ({"size": 50, "init": "pieces"}, "is of tokens' texts"),
    "own tokenizer unknown": ({"tokenizer": "bytes"}, "nothing says its own tokenizer"),
    "multiple of none": ({"size": 50, "pad_to": 0}, "expected a whole number, 1 to 16777216"),
    "rates": ({"size": 50, "request": StateRequest(lr_rule="mup")}, "use lr_rule"),
    "fresh moments": ({"size": 50, "request": StateRequest(fresh_moments="mean")}, "leave it out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_words(tmp_path: Path, name: str) -> None:
    options, words = REFUSED[name]
    save_lightning(tmp_path / "small.ckpt", perturbed_gpt2())
    with pytest.raises(RequestError, match=words):
        ckptgrow.vocab(tmp_path / "small.ckpt", tmp_path / "out.ckpt", **options)
    assert not (tmp_path / "out.ckpt").exists()


def test_a_model_of_images_has_no_vocabulary(tmp_path: Path) -> None:
    save_lightning(tmp_path / "small.ckpt", perturbed("vit"))
    with pytest.raises(RequestError, match="vit has no vocabulary"):
        ckptgrow.vocab(tmp_path / "small.ckpt", tmp_path / "out.ckpt", size=50)


def test_moments_may_begin_anew(tmp_path: Path) -> None:
    model = perturbed_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    train(model, optimizer, token_batches(3))
    small = save_lightning(tmp_path / "small.ckpt", model, [optimizer])
    ckptgrow.vocab(small, tmp_path / "grown.ckpt", size=VOCABULARY + 1, request=StateRequest(reset=("new",)))
    record = state_of(tmp_path / "grown.ckpt")["optimizers"][0]["state"][0]
    assert not record["exp_avg_sq"][VOCABULARY:].any() and record["exp_avg_sq"][:VOCABULARY].any()
    assert ckptgrow.verify(small, tmp_path / "grown.ckpt").passed
