"""Scores through lm-eval: its own for the same weights, and those computed from logits."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedModel

import ckptgrow
from ckptgrow.errors import DataError, RequestError
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import evaluate
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.tasks import load_tasks
from ckptgrow.evaluate.tokenizer import byte_tokenizer
from tests.helpers.evaluated import (
    CONTEXT,
    LAMBADA,
    PREFIX,
    WIKITEXT,
    Score,
    continuation_score,
    opened,
    passages,
    text_score,
)

TASKS = {"lambada_openai": LAMBADA, "wikitext": WIKITEXT}
DEFINITIONS = Path(lm_eval.__file__).parent / "tasks"


def pages() -> list[str]:
    """The pages of the fixture, by another way than the package's: headings begin with one "= "."""
    parts = re.split(r"^(?= = [^=])", WIKITEXT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [part.removesuffix("\n") for part in parts if part]


def harness_alone(model: PreTrainedModel, directory: Path, dtype: str, batch_size: int) -> dict[str, Any]:
    """lm-eval with its own loading of a saved model, and the tasks' own definitions over datasets' JSON reader."""
    model.save_pretrained(directory)
    documents = {
        "lambada_openai": [{"text": text} for text in passages()],
        "wikitext": [{"page": one} for one in pages()],
    }
    tasks = []
    for name, file in (("lambada_openai", "lambada/lambada_openai.yaml"), ("wikitext", "wikitext/wikitext.yaml")):
        lines = directory / f"{name}.jsonl"
        lines.write_text("".join(json.dumps(one) + "\n" for one in documents[name]), encoding="utf-8")
        config = load_yaml(DEFINITIONS / file)
        config.pop("tag", None)
        changed = {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(lines)}, "cache_dir": str(directory / "cache")},
            "training_split": None,
            "validation_split": None,
        }
        tasks.append(ConfigurableTask(config={**config, **changed}))
    harness = HFLM(str(directory), tokenizer=byte_tokenizer(), dtype=dtype, device="cpu", batch_size=batch_size)
    manager = TaskManager(include_defaults=False)
    return lm_eval.simple_evaluate(harness, tasks=tasks, task_manager=manager, bootstrap_iters=50)["results"]


@pytest.mark.parametrize(("dtype", "batch_size"), [("float32", 4), ("bfloat16", 1)])
def test_scores_are_lm_evals_own_to_the_last_digit(
    model: PreTrainedModel, checkpoint: Path, tmp_path: Path, score: Score, dtype: str, batch_size: int
) -> None:
    with quiet():
        expected = harness_alone(model, tmp_path, dtype, batch_size)
    found = score(opened(checkpoint, dtype), TASKS, batch_size=batch_size)
    assert found.results == expected
    assert found.results["lambada_openai"]["perplexity_stderr,none"] > 0


def test_every_kind_of_checkpoint_is_read_as_it_is(
    model: PreTrainedModel, subject: Subject, tmp_path: Path, score: Score
) -> None:
    model.save_pretrained(tmp_path / "directory")
    byte_tokenizer().save_pretrained(tmp_path / "directory")
    with_its_own = opened(tmp_path / "directory", tokenizer=None)
    assert with_its_own.tokenizer_name == str(tmp_path / "directory")
    assert score(with_its_own, TASKS).results == score(subject, TASKS).results


def test_lambada_is_what_the_logits_say(family: tuple[PreTrainedModel, Path], score: Score) -> None:
    model, checkpoint = family
    found = score(opened(checkpoint), {"lambada_openai": LAMBADA})
    expected = [
        continuation_score(model, list(context.encode()), list(f" {word}".encode()))
        for context, word in (text.rsplit(" ", 1) for text in passages())
    ]
    mean = sum(one for one, _ in expected) / len(expected)
    results = found.results["lambada_openai"]
    assert results["perplexity,none"] == pytest.approx(math.exp(-mean), rel=1e-5)
    assert results["acc,none"] == sum(greedy for _, greedy in expected) / len(expected)
    assert 0.1 < results["acc,none"] < 0.9  # the model has learned some of the last words
    for sample, (likelihood, greedy) in zip(found.samples["lambada_openai"], expected, strict=True):
        assert sample["perplexity"] == pytest.approx(likelihood, rel=1e-5) and sample["acc"] == greedy


def test_wikitext_is_what_the_logits_say(family: tuple[PreTrainedModel, Path], score: Score) -> None:
    model, checkpoint = family
    found = score(opened(checkpoint), {"wikitext": WIKITEXT})
    samples = found.samples["wikitext"]
    assert [sample["doc"]["page"] for sample in samples] == pages() and len(samples) == 40
    assert "1,200 copies" in samples[2]["target"] and "@" not in "".join(sample["target"] for sample in samples)
    likelihood = sum(text_score(model, sample["target"]) for sample in samples)
    num_words = sum(len(re.split(r"\s+", page)) for page in pages())
    num_bytes = sum(len(page.encode()) for page in pages())
    results = found.results["wikitext"]
    assert results["word_perplexity,none"] == pytest.approx(math.exp(-likelihood / num_words), rel=1e-4)
    assert results["byte_perplexity,none"] == pytest.approx(math.exp(-likelihood / num_bytes), rel=1e-5)
    assert results["bits_per_byte,none"] == pytest.approx(-likelihood / num_bytes / math.log(2), rel=1e-5)


@pytest.mark.parametrize("growth", ["wide", *(pytest.param(one, marks=pytest.mark.slow) for one in ("tiled", "deep"))])
def test_a_grown_checkpoint_scores_as_the_small_one(
    family: tuple[PreTrainedModel, Path], tmp_path: Path, score: Score, growth: str
) -> None:
    _, checkpoint = family
    out = tmp_path / "grown.ckpt"
    if growth == "deep":
        ckptgrow.depth(checkpoint, out)
    else:
        ckptgrow.width(checkpoint, out, how="diagonal" if growth == "wide" else "tile", noise=1.0)
    small, grown = (score(one, TASKS).results for one in (opened(checkpoint), opened(out)))
    assert grown["lambada_openai"]["acc,none"] == small["lambada_openai"]["acc,none"]
    for task, metric in (("lambada_openai", "perplexity,none"), ("wikitext", "byte_perplexity,none")):
        assert grown[task][metric] == pytest.approx(small[task][metric], rel=1e-5)


def test_passages_longer_than_the_context_are_cut_as_lm_eval_does_and_counted(
    subject: Subject, model: PreTrainedModel, tmp_path: Path, score: Score
) -> None:
    data = tmp_path / "long.jsonl"
    long = "over and over " * 20 + "again"
    data.write_text(json.dumps({"text": long}) + "\n" + json.dumps({"text": "short and sweet"}) + "\n")
    found = score(subject, {"lambada_openai": data})
    assert any(note.startswith(f"1 request(s) longer than the context of {CONTEXT} tokens") for note in found.notes)
    expected, _ = continuation_score(model, list(long.removesuffix(" again").encode()), list(b" again"))
    assert found.samples["lambada_openai"][0]["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_a_passage_of_one_word_follows_the_beginning_of_text(
    subject: Subject, model: PreTrainedModel, tmp_path: Path, score: Score
) -> None:
    data = tmp_path / "word.jsonl"
    data.write_text('{"text": "alone"}\n\n{"text": "not alone"}\n')
    found = score(subject, {"lambada_openai": data})
    assert any("1 passage of one word (first: line 1)" in note for note in found.notes)
    assert any("1 empty line left out" in note for note in found.notes)
    expected, _ = continuation_score(model, [PREFIX], list(b" alone"))
    assert found.samples["lambada_openai"][0]["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_a_last_word_longer_than_the_context_is_named_by_its_line(
    subject: Subject, tmp_path: Path, score: Score
) -> None:
    data = tmp_path / "word.jsonl"
    data.write_text('{"text": "short one"}\n' + json.dumps({"text": "a " + "h" * CONTEXT}) + "\n")
    with pytest.raises(DataError, match=r"line 2: 65 tokens to score, expected 1 to 64"):
        score(subject, {"lambada_openai": data})


def test_nothing_else_of_the_index_is_loaded() -> None:
    loaded = load_tasks(["lambada_openai"], {"lambada_openai": LAMBADA})
    assert set(loaded.manager.all_tasks) == {"lambada_openai", "lambada"}


def test_limits_count_as_lm_evals(subject: Subject, score: Score) -> None:
    assert score(subject, {"lambada_openai": LAMBADA}, limit=3).num_samples == {"lambada_openai": 3}
    assert score(subject, {"lambada_openai": LAMBADA}, limit=0.11).num_samples == {"lambada_openai": 5}


def test_more_processes_than_documents_is_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptgrow.evaluate.processes import EvalProcesses

    loaded = load_tasks(["lambada_openai"], {"lambada_openai": LAMBADA})
    with pytest.raises(RequestError, match="40 documents for 41 processes"):
        evaluate(subject, loaded, EvalSettings(batch_size=4), EvalProcesses(0, 41, torch.device("cpu")))


def test_the_score_does_not_depend_on_the_progress_bar(checkpoint: Path, score: Score) -> None:
    from contextlib import contextmanager

    seen: list[tuple[str, int | None, int]] = []

    @contextmanager
    def bar(description: str):
        def start(total: int | None):
            seen.append((description, total, 0))
            return lambda amount: seen.append((description, None, amount))

        yield start

    with launched("cpu") as processes:
        loaded = load_tasks(list(TASKS), TASKS)
        done = evaluate(opened(checkpoint), loaded, EvalSettings(batch_size=4, bootstrap_iters=50), processes, bar)
    assert done is not None and done.results == score(opened(checkpoint), TASKS).results
    totals = [total for _, total, _ in seen if total is not None]
    windows = sum(-(-len(sample["target"].encode()) // CONTEXT) for sample in done.samples["wikitext"])
    assert totals == [40, 40 + windows] and sum(amount for *_, amount in seen) == 40 + windows
