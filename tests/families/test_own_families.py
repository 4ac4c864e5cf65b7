"""Families that live outside the package: the documented example, by a call, a file and an entry point."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import ckptgrow
from ckptgrow.errors import ConfigError
from ckptgrow.families import Family, Parameter, Size, register
from ckptgrow.families.registration import GROUP, Registry, family_in
from ckptgrow.families.registry import FAMILIES, TABLES
from ckptgrow.families.tables.llama import FAMILY as LLAMA
from tests.helpers.commands import refused
from tests.helpers.families import batches, difference, loaded, saved, still, trained, widened
from tests.helpers.family_checks import EXACT, check_moments, check_verified
from tests.helpers.lightning_files import save_lightning
from tests.helpers.paths import DOCS

PAGE = DOCS / "how-to" / "own-models.md"
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 6,
    "intermediate_size": 20,
}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's own_model.py, registered in this process while this module's tests run."""
    path = tmp_path_factory.mktemp("own") / "own_model.py"
    path.write_text(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0])
    family = family_in(path)
    register(family)
    yield path
    del FAMILIES._added[family.model_type]


def own_model(*, is_tied: bool = True) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model("own", **SIZES, tie_word_embeddings=is_tied)
    model = widened(AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(
    "grow",
    [
        lambda small, grown: ckptgrow.width(small, grown, factor=2, noise=0),
        lambda small, grown: ckptgrow.width(small, grown, ffn=27, noise=0),
        lambda small, grown: ckptgrow.width(small, grown, heads=3, noise=0),
    ],
    ids=["width", "ffn", "heads"],
)
def test_the_documented_example_grows_exactly_with_its_moments(
    example: Path, tmp_path: Path, is_tied: bool, grow: Any
) -> None:
    small = own_model(is_tied=is_tied)
    source = saved(tmp_path / "small.ckpt", small, still)
    grow(source, tmp_path / "grown.ckpt")
    assert difference(small, loaded(tmp_path / "grown.ckpt")[0])[0] <= EXACT
    check_moments(tmp_path / "grown.ckpt")
    check_verified(source, tmp_path / "grown.ckpt")


@pytest.mark.parametrize("new", ["zero-output", "zero-norm"])
def test_it_grows_deeper_exactly(example: Path, tmp_path: Path, new: Any) -> None:
    small = own_model()
    source = saved(tmp_path / "small.ckpt", small, still)
    ckptgrow.depth(source, tmp_path / "grown.ckpt", new=new)
    grown, _ = loaded(tmp_path / "grown.ckpt")
    assert grown.config.num_hidden_layers == 4
    assert difference(small, grown)[0] <= EXACT
    check_moments(tmp_path / "grown.ckpt", fresh=(1, 3))
    check_verified(source, tmp_path / "grown.ckpt")


def test_it_grows_to_any_hidden_size_and_in_memory(example: Path, tmp_path: Path) -> None:
    small = own_model()
    source = saved(tmp_path / "small.ckpt", small, still)
    ckptgrow.width(source, tmp_path / "padded.ckpt", hidden=24, how="pad")
    assert difference(small, loaded(tmp_path / "padded.ckpt")[0])[0] <= EXACT
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-3)
    trained(small, optimizer, batches(2))
    grown = ckptgrow.grow(small, optimizer, width=2, noise=0)
    assert difference(small, grown.model)[0] <= EXACT


def in_a_process(words: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, **environment}
    command = [sys.executable, "-m", "ckptgrow", *words]
    return subprocess.run(command, cwd=tmp_path, env=full, capture_output=True, text=True, check=False)


def test_the_command_line_takes_it_from_a_file_and_from_an_entry_point(example: Path, tmp_path: Path) -> None:
    save_lightning(tmp_path / "small.ckpt", own_model())
    grown = in_a_process(["--family", str(example), "width", "small.ckpt", "wide.ckpt", "--json"], tmp_path)
    assert grown.returncode == 0 and json.loads(grown.stdout)["new"]["residual"] == 32, grown.stderr

    installed = tmp_path / "site" / "own_package-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\nown = own_model:FAMILY\n")
    paths = os.pathsep.join([str(installed.parent), str(example.parent), os.environ.get("PYTHONPATH", "")])
    verified = in_a_process(["verify", "small.ckpt", "wide.ckpt", "--json"], tmp_path, PYTHONPATH=paths)
    assert verified.returncode == 0 and json.loads(verified.stdout)["passed"], verified.stderr


def test_without_it_the_refusal_names_the_ways_out(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_lightning(tmp_path / "small.ckpt", own_model())
    monkeypatch.delitem(FAMILIES._added, "own")
    words = ["no table for family 'own'", "--family FILE before the command adds one of your own"]
    refused(["width", str(source), str(tmp_path / "wide.ckpt")], capsys, *words)
    assert not (tmp_path / "wide.ckpt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise OSError('no such weights')", "OSError: no such weights, expected a file that Python runs"),
        ("FAMILY = 3", "has a int, expected FAMILY"),
        (None, "no such Python file"),
    ],
)
def test_a_file_that_has_no_table_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        family_in(path)


def test_a_code_that_a_checkpoint_names_is_not_run(example: Path, tmp_path: Path) -> None:
    own_model().save_pretrained(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoModelForCausalLM": "modeling.Stranger"}}
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    (tmp_path / "small" / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="no table for family 'stranger'"):
        ckptgrow.width(tmp_path / "small", tmp_path / "grown")
    assert not (tmp_path / "ran").exists()


ROWS = LLAMA.parameters
MALFORMED: dict[str, tuple[Any, str]] = {
    "no family": ({"model_type": "x"}, "a dict is no table, expected a ckptgrow.families.Family"),
    "layout": (
        replace(LLAMA, model_type="x", parameters=(*ROWS, Parameter("other.weight", "(heads head <- normed"))),
        "other.weight: layout '(heads head <- normed': found '<' at character 13",
    ),
    "space": (
        replace(LLAMA, model_type="x", parameters=(*ROWS, Parameter("other.weight", "units <- normed"))),
        "other.weight: layout 'units <- normed' names units, expected spaces of `sizes`",
    ),
    "condition": (
        replace(LLAMA, model_type="x", parameters=(*ROWS, Parameter("other.weight", "ffn", when="a or b"))),
        "other.weight: condition 'a or b', expected FIELD",
    ),
    "layers": (
        replace(LLAMA, model_type="x", parameters=(*ROWS, Parameter("a.{layer}.b", "ffn", layers="kinds == one"))),
        "layers 'kinds == one', expected all, later",
    ),
    "no layer in the name": (
        replace(LLAMA, model_type="x", parameters=(*ROWS, Parameter("a.b", "ffn", layers="later"))),
        "expected {layer} in a name",
    ),
    "twice": (replace(LLAMA, model_type="x", parameters=(*ROWS, ROWS[0])), "stands twice under the same condition"),
    "size of nothing": (
        replace(LLAMA, model_type="x", sizes={**LLAMA.sizes, "other": Size()}),
        "the size of 'other' says nothing",
    ),
    "size of another": (
        replace(LLAMA, model_type="x", sizes={**LLAMA.sizes, "other": Size(same="lost")}),
        "the size of 'other' follows from lost",
    ),
    "size of itself": (
        replace(LLAMA, model_type="x", sizes={**LLAMA.sizes, "a": Size(same="b"), "b": Size(product=("a", "ffn"))}),
        "the size of 'a' follows from itself",
    ),
    "head": (replace(LLAMA, model_type="x", head="chat"), "head 'chat', expected one of causal"),  # pyright: ignore[reportArgumentType]
    "tie": (
        replace(LLAMA, model_type="x", parameters=ROWS[:-1]),
        "tie names lm_head.weight, expected names of `parameters`",
    ),
    "no residual": (
        replace(LLAMA, model_type="x", sizes={k: v for k, v in LLAMA.sizes.items() if k != "residual"}),
        "no space 'residual'",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_table_is_refused_in_one_line(fault: str) -> None:
    table, message = MALFORMED[fault]
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        register(table)
    assert "\n" not in str(refusal.value)
    assert "x" not in FAMILIES


def test_a_name_that_another_table_has_is_refused_and_the_same_table_twice_is_one() -> None:
    register(LLAMA)
    with pytest.raises(ConfigError, match="family 'llama': another table has this model_type"):
        register(replace(LLAMA, num_layers="layers"))


class _Point:
    """An entry point as an installed package has it."""

    def __init__(self, name: str, found: object) -> None:
        self.name, self.value, self.found, self.dist = name, "package:FAMILY", found, None

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def registry_with(monkeypatch: pytest.MonkeyPatch, *points: _Point) -> Registry:
    monkeypatch.setattr("ckptgrow.families.registration.entry_points", lambda group: [*points])
    return Registry(TABLES)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ImportError("no module torch_two"), "ImportError: no module torch_two, expected a table"),
        (LLAMA.parameters, "has a tuple, expected FAMILY"),
        (LLAMA, "is a table of 'llama', expected the entry point's own name"),
        (replace(LLAMA, model_type="own", num_layers="n", base_prefix="m.", tie=None, parameters=()), "no name has"),
    ],
)
def test_an_entry_point_that_gives_no_table_is_refused_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, found: Any, message: str
) -> None:
    registry = registry_with(monkeypatch, _Point("own", found))
    assert registry["llama"] is LLAMA
    with pytest.raises(ConfigError, match=re.escape(message)):
        registry["own"]


def test_two_tables_of_one_name_are_refused_wherever_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(LLAMA, model_type="own")
    registry = registry_with(monkeypatch, _Point("own", own), _Point("own", own), _Point("llama", LLAMA))
    for name in ("own", "llama"):
        with pytest.raises(ConfigError, match=f"family '{name}': .* has a table beside another one"):
            registry[name]
    with pytest.raises(ConfigError, match="another table has this model_type"):
        registry.add(own)


def test_every_table_of_the_package_is_well_formed() -> None:
    for family in TABLES:
        Registry(()).add(family)
    assert isinstance(FAMILIES["llama"], Family)
