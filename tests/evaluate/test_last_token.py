"""The staged-training script's LAMBADA, against a passage-by-passage computation with transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from ckptgrow.errors import DataError
from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import Evaluation
from ckptgrow.evaluate.last_token import Reading, last_token_accuracy
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.task_documents import passages as read
from tests.helpers.evaluated import LAMBADA, opened, passages, word_tokenizer
from tests.helpers.gpt2 import gpt2_config
from tests.helpers.lightning_files import save_lightning

TASK = "lambada_original"


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, GPT2LMHeadModel, Path]:
    """A model over a BPE whose last token often is a part of the last word; it stands beside its tokenizer."""
    home = word_tokenizer(tmp_path_factory.mktemp("worded"))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(gpt2_config(vocab_size=1200, n_positions=512, n_embd=16, n_head=2, n_layer=1)).eval()
    tokenizer = AutoTokenizer.from_pretrained(home)
    ends = [tokenizer.encode(text) for text in passages()[:12]]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(25):
        optimizer.zero_grad()
        logits = torch.stack([model(input_ids=torch.tensor([one[:-1]])).logits[0, -1] for one in ends])
        torch.nn.functional.cross_entropy(logits, torch.tensor([one[-1] for one in ends])).backward()
        optimizer.step()
    path = save_lightning(home / "worded.ckpt", model)
    return opened(path, tokenizer=None), model, home


def measured(subject: Subject, data: Path = LAMBADA, reading: Reading | None = None, **settings: object) -> Evaluation:
    with launched("cpu") as processes:
        chosen = EvalSettings(**{"batch_size": 4, **settings})  # type: ignore[arg-type]
        done = last_token_accuracy(subject, read(data), reading or Reading(), chosen, processes)
    assert done is not None
    return done


@torch.no_grad()
def hits(model: GPT2LMHeadModel, home: Path, texts: list[str], *, whole_words: bool = False) -> list[bool]:
    tokenizer = AutoTokenizer.from_pretrained(home)
    found: list[bool] = []
    for text in texts:
        tokens = tokenizer.encode(text)
        if whole_words and tokenizer.decode([tokens[-1]]).strip() != text.split()[-1]:
            continue
        found.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -2].argmax()) == tokens[-1])
    return found


@pytest.mark.parametrize("leading_newline", [False, True])
@pytest.mark.parametrize("ignore_fragments", [False, True])
def test_accuracy_is_that_of_each_passage_alone(
    worded: tuple[Subject, GPT2LMHeadModel, Path], leading_newline: bool, ignore_fragments: bool
) -> None:
    subject, model, home = worded
    reading = Reading(leading_newline=leading_newline, ignore_fragments=ignore_fragments)
    found = measured(subject, reading=reading).results[TASK]
    texts = [("\n" if leading_newline else "") + text for text in passages()]
    expected = hits(model, home, texts, whole_words=ignore_fragments)
    assert found["sample_len"] == len(expected) and (len(expected) < 40) == ignore_fragments
    assert found["acc,none"] == sum(expected) / len(expected)
    spread = torch.tensor(expected).double().std() / len(expected) ** 0.5
    assert found["acc_stderr,none"] == pytest.approx(float(spread))
    if not leading_newline:
        assert 0 < sum(expected) < len(expected)


def test_quotes_become_plain_ones(worded: tuple[Subject, GPT2LMHeadModel, Path], tmp_path: Path) -> None:
    subject, *_ = worded
    fancy, plain = ("“so'' she ``said” and left", '"so" she "said" and left')
    for name, text in (("fancy", fancy), ("plain", plain)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}))
    predicted = [
        measured(subject, tmp_path / f"{name}.jsonl", Reading(plain_quotes=changed)).samples[TASK][0]["predicted"]
        for name, changed in (("fancy", True), ("plain", False))
    ]
    assert predicted[0] == predicted[1]


def test_the_tokenizer_beside_the_checkpoint_is_taken(worded: tuple[Subject, GPT2LMHeadModel, Path]) -> None:
    subject, _, home = worded
    assert subject.tokenizer_name == str(home) and subject.tokenizer.vocab_size == 1200


def test_a_single_token_is_refused_by_its_line(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("two words\nx\n")
    with pytest.raises(DataError, match=r"a\.txt: line 2: is a single token"):
        measured(subject, tmp_path / "a.txt")


def test_only_fragments_leave_nothing(subject: Subject) -> None:
    with pytest.raises(DataError, match="all 40 passages end in a fragment"):
        measured(subject, reading=Reading(ignore_fragments=True))


def test_long_passages_are_cut_and_told_and_limits_hold(subject: Subject) -> None:
    found = measured(subject, limit=5)
    assert found.num_samples == {TASK: 5} and "5 passage(s) longer than the context" in found.notes[0]
