"""Finding lm-eval's tasks by name, without its whole index; and what happens where there is no data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptgrow.cli import run
from ckptgrow.errors import MissingDependencyError, RequestError
from ckptgrow.evaluate.definitions import find_definitions
from ckptgrow.evaluate.dependency import require
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.tasks import load_tasks
from tests.helpers.evaluated import LAMBADA, OWN_TASK


def test_names_are_found_as_tasks_groups_and_tags() -> None:
    definitions = find_definitions()
    assert definitions.file_of("wikitext").name == "wikitext.yaml" and "mmlu" in definitions.groups
    assert definitions.meaning("lambada") == ["lambada_openai", "lambada_standard"]
    assert "acp_bench" in definitions.tags  # stands in a template that is not .yaml
    assert {"arc_easy", "arc_challenge"} <= set(definitions.meaning("arc_*"))


def test_unknown_names_are_refused_with_the_nearest(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "run", str(checkpoint), "--tasks", "lambada_opnai", "--tokenizer", "bytes"]) == 2
    assert "lm-eval has no such task, group or tag; did you mean lambada_openai" in capsys.readouterr().err
    assert run(["eval", "run", str(checkpoint), "--tasks", " ,", "--tokenizer", "bytes"]) == 2
    assert "--tasks: names none" in capsys.readouterr().err


def test_a_local_file_needs_a_task_that_reads_it() -> None:
    with pytest.raises(RequestError, match='data="arc_easy": local files are read for'):
        load_tasks(["arc_easy"], {"arc_easy": LAMBADA})
    with pytest.raises(RequestError, match='data="lambada_standard": is not among the tasks lambada_openai'):
        load_tasks(["lambada_openai"], {"lambada_openai": LAMBADA, "lambada_standard": LAMBADA})


def test_a_tag_brings_its_tasks() -> None:
    loaded = load_tasks(["lambada"], {"lambada_openai": LAMBADA, "lambada_standard": LAMBADA})
    assert set(loaded.tasks) == {"lambada_openai", "lambada_standard"} and not loaded.groups


@pytest.mark.parametrize("command", ["lambada", "wikitext"])
@pytest.mark.parametrize("measure", ["lm-eval", "original"])
def test_without_network_and_data_one_line_says_what_to_do(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], command: str, measure: str
) -> None:
    assert run(["eval", command, str(checkpoint), "--tokenizer", "bytes", "--measure", measure]) == 2
    message = capsys.readouterr().err
    assert "neither in the cache nor to be downloaded" in message and "--data" in message and message.count("\n") == 1


@pytest.mark.parametrize("name", ["own_endings", "own_tag", "own_e*", "own_group"])
def test_tasks_of_ones_own_run_on_any_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps({"question": f"is {n} odd?", "answer": (n + 1) % 2}) + "\n" for n in range(4)))
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.yaml").write_text(OWN_TASK.format(data=data, cache=tmp_path / "cache"))
    (own / "group.yaml").write_text("group: own_group\ntask:\n  - own_tag\naggregate_metric_list:\n  - metric: acc\n")
    arguments = ["eval", "run", str(checkpoint), "--tasks", name, "--include-path", "own", "--tokenizer", "bytes"]
    assert run([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["num_samples"] == {"own_endings": 4} and 0 <= shown["results"]["own_endings"]["acc,none"] <= 1
    if name == "own_group":
        assert shown["results"]["own_group"]["acc,none"] == shown["results"]["own_endings"]["acc,none"]


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r"needs no_such_package.*ckptgrow\[eval\]"):
        require("no_such_package", "json")


@pytest.mark.slow
def test_the_definitions_are_those_of_the_whole_index() -> None:
    from lm_eval.tasks import TaskManager

    with quiet():
        index = TaskManager().task_index
    definitions = find_definitions()
    kinds = {
        "TAG": definitions.tags,
        "GROUP": definitions.groups,
        "TASK": definitions.tasks,
        "PY_TASK": definitions.tasks,
    }
    for name, entry in index.items():
        assert name in kinds[entry.kind.name], name
        if entry.yaml_path is None:
            assert set(definitions.tags[name]) == entry.tags, name
        else:
            assert definitions.file_of(name) == entry.yaml_path, name
