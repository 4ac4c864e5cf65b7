"""Whatever a tokenizer adds of its own, measures are of the text's tokens: those that `ckptgrow data` writes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GPT2LMHeadModel

from ckptgrow.cli import run
from ckptgrow.data.documents import Remarks
from ckptgrow.data.preparation import prepare
from ckptgrow.evaluate import tokens
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import Evaluation, evaluate
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.tasks import load_tasks
from tests.helpers.evaluated import LAMBADA, WIKITEXT, opened, passages, word_tokenizer
from tests.helpers.gpt2 import gpt2_config
from tests.helpers.lightning_files import save_lightning

TEMPLATES = {
    "nothing": "$A",
    "begin": "<|begin|> $A",
    "end": "$A <|end|>",
    "both": "<|begin|> $A <|end|>",
}


@pytest.fixture(params=TEMPLATES)
def added(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Subject, Path]:
    """A model, and beside it a tokenizer that puts its own tokens around every text."""
    home = word_tokenizer(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(home)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    special = [("<|begin|>", tokenizer.bos_token_id), ("<|end|>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(TEMPLATES[request.param], special_tokens=special)
    tokenizer.save_pretrained(home)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(gpt2_config(vocab_size=1201, n_positions=512, n_embd=16, n_head=2, n_layer=1)).eval()
    return opened(save_lightning(home / "small.ckpt", model), tokenizer=None), home


def plain(home: Path, text: str) -> list[int]:
    return AutoTokenizer.from_pretrained(home)(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_the_last_token_of_a_passage_is_its_texts(added: tuple[Subject, Path], tmp_path: Path) -> None:
    subject, home = added
    command = ["eval", "lambada", str(subject.path), "--data", str(LAMBADA), "--measure", "original"]
    assert run([*command, "--samples", str(tmp_path / "samples.jsonl")]) == 0
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [one["target"] for one in samples] == [plain(home, text)[-1] for text in passages()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_perplexity_reads_the_tokens_that_data_writes(added: tuple[Subject, Path], tmp_path: Path, name: str) -> None:
    subject, home = added
    texts = [*passages()[:5], "a page on <|end|> and <|begin|>\n", " \n", None]
    content = "".join(json.dumps({"text": one}) + "\n" for one in texts).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    done = prepare([str(tmp_path / name)], tmp_path / "out", tokenizer=str(home), val_fraction=0)
    written = np.fromfile(tmp_path / "out" / "train.bin", dtype=done.dtype)
    remarks = Remarks()
    assert np.array_equal(np.asarray(tokens.text_tokens(tmp_path / name, subject, remarks)[:]), written)
    assert len(remarks.notes()) == 1
    end = AutoTokenizer.from_pretrained(home).eos_token_id
    kept = [one.rstrip("\n") for one in texts if one and one.strip()]
    assert written.tolist() == [number for one in kept for number in [*plain(home, one), end]]


def test_rows_and_plain_text_have_nothing_added(added: tuple[Subject, Path], tmp_path: Path) -> None:
    subject, home = added
    (tmp_path / "a.txt").write_text("one <|end|> two\n\nthree\n")
    rows = tokens.file_rows(tmp_path / "a.txt", subject)
    assert rows == [plain(home, text) for text in ("one <|end|> two\n", "", "three\n")]
    whole = np.asarray(tokens.text_tokens(tmp_path / "a.txt", subject)[:]).tolist()
    assert whole == plain(home, "one <|end|> two\n\nthree\n")


@pytest.mark.sampled(4)
def test_scores_stay_those_of_simple_evaluate(added: tuple[Subject, Path]) -> None:
    """It is what users compare with; the same tasks, seeds and model through lm-eval's own front."""
    subject, home = added
    local = {"lambada_openai": LAMBADA, "wikitext": WIKITEXT}
    settings = EvalSettings(batch_size=4, bootstrap_iters=20, limit=6)
    with launched("cpu") as processes:
        found = evaluate(subject, load_tasks(list(local), local), settings, processes)
    assert isinstance(found, Evaluation)
    loaded = load_tasks(list(local), local)
    own = HFLM(pretrained=subject.model, tokenizer=AutoTokenizer.from_pretrained(home), batch_size=4)  # type: ignore[call-arg,arg-type]
    with quiet():
        theirs = lm_eval.simple_evaluate(
            model=own, tasks=list(loaded.tasks.values()), task_manager=loaded.manager, limit=6, bootstrap_iters=20
        )
    assert theirs is not None
    assert found.results == theirs["results"]


def test_tokens_that_the_model_does_not_know_are_told(
    added: tuple[Subject, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, home = added
    torch.manual_seed(0)
    model = GPT2LMHeadModel(gpt2_config(vocab_size=1200, n_positions=512, n_embd=16, n_head=2, n_layer=1))
    path = save_lightning(home / "fewer.ckpt", model)
    tokenizer = AutoTokenizer.from_pretrained(home)
    tokenizer.add_tokens(["was"])
    tokenizer.save_pretrained(home)
    assert run(["eval", "lambada", str(path), "--data", str(LAMBADA), "--bootstrap-iters", "0"]) == 2
    assert "gives token 1201, expected ids below the model's 1200" in capsys.readouterr().err
