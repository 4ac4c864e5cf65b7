"""Tables that are drafted by measurement: beside those that exist, and for model types that have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from ckptgrow.cli import run
from ckptgrow.commands._families import FILES
from ckptgrow.drafting.drafting import draft
from ckptgrow.drafting.trial import tried
from ckptgrow.families.family import Family
from ckptgrow.families.registration import family_in
from ckptgrow.families.registry import FAMILIES
from ckptgrow.spaces.layout import parse

# of these, a draft is the table: every row, when and in which layers it is there
SAME = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt2",
    "gpt_neox",
    "phi",
    "starcoder2",
    "granite",
    "arcee",
    "granite_swa",
)
# of these, but for what the embedding is multiplied by, or another word for one thing
NEARLY = ("gemma", "gemma2", "olmo2", "mixtral", "phi3", "smollm3", "exaone4", "glm4", "minimax_m2")
OTHERS = ("vaultgemma", "nemotron", "jais2", "internlm3", "cohere", "gpt_neo", "persimmon", "flex_olmo", "afmoe")
UNTOLD = "jais2"  # of which a draft is whole


def rows_of(family: Family) -> dict[str, tuple[str, str | None, str]]:
    return {one.name: (one.layout, one.when, one.layers) for one in family.parameters}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("model_type", SAME)
def test_a_draft_is_the_table_that_a_person_wrote(model_type: str) -> None:
    drafted, table = draft(model_type), FAMILIES[model_type]
    assert rows_of(drafted.family) == rows_of(table)
    ties = [(one.tie.head, one.tie.embedding) for one in (drafted.family, table) if one.tie is not None]
    assert ties[0] == ties[1] and drafted.family.base_prefix == table.base_prefix
    assert drafted.family.num_layers == table.num_layers
    assert {*table.layer_lists} <= {*drafted.family.layer_lists}
    assert not drafted.unsure


@pytest.mark.sampled(3)
@pytest.mark.parametrize("model_type", NEARLY)
def test_a_draft_has_the_tables_axes(model_type: str) -> None:
    """Axis by axis the same number of parts, the same directions and the same kinds."""
    drafted, table = rows_of(draft(model_type).family), rows_of(FAMILIES[model_type])
    assert drafted.keys() == table.keys()
    for name, (layout, when, layers) in table.items():
        found, expected = parse(drafted[name][0]), parse(layout)
        assert (found.kind, found.offset) == (expected.kind, expected.offset), name
        assert [axis.role for axis in found.axes] == [axis.role for axis in expected.axes], name
        assert drafted[name][1:] == (when, layers), name


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model_type", OTHERS[:-1])
def test_a_family_without_a_table_grows_by_its_draft(model_type: str) -> None:
    drafted, found = tried(draft(model_type))
    faults = {one.operator: one.fault for one in found}
    assert faults["width"] is faults["ffn"] is faults["zero-output"] is None, faults
    assert {one.operator for one in drafted.family.refusals} == {name for name, one in faults.items() if one}


def test_what_is_not_exact_is_refused_by_the_draft_itself() -> None:
    """XGLM adds fixed sines to the residual stream, which no relabelling leaves alone."""
    drafted, _ = tried(draft("xglm"))
    assert any(one.operator == "width" for one in drafted.family.refusals)
    assert any("residual stream" in line for line in drafted.unsure)


@pytest.fixture
def without_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the package had no table of `UNTOLD`, in an empty directory."""
    others = {name: one for name, one in FAMILIES.items() if name != UNTOLD}
    monkeypatch.setattr(FAMILIES, "_own", others)
    monkeypatch.setattr(FAMILIES, "_added", {})
    monkeypatch.setenv(FILES, "")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("without_table")
def test_a_drafted_file_grows_a_real_model_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["families", "new", UNTOLD, "drafted.py", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["growths"].values()) == {"exact"} and not told["unsure"] and not told["has_table"]
    assert family_in(Path("drafted.py")).model_type == UNTOLD
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 50}
    config = AutoConfig.for_model(UNTOLD, **sizes, intermediate_size=30, num_hidden_layers=2)
    AutoModelForCausalLM.from_config(config).save_pretrained("small")
    family = ["--family", "drafted.py"]
    for words in (["width", "small", "wide"], ["verify", "small", "wide"], ["families", "check", UNTOLD]):
        assert run([*family, *words]) == 0


@pytest.mark.usefixtures("without_table")
def test_a_wrong_table_fails_its_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["families", "new", UNTOLD, "drafted.py"]) == 0
    text = Path("drafted.py").read_text(encoding="utf-8")
    wrong = text.replace('o_proj.weight", "residual <- (heads head)"', 'o_proj.weight", "residual <- (head heads)"')
    assert wrong != text
    Path("drafted.py").write_text(wrong, encoding="utf-8")
    capsys.readouterr()
    assert run(["--family", "drafted.py", "families", "check", UNTOLD]) == 1
    said = capsys.readouterr()
    assert "heads: the logits see its units change places" in said.err and "WRONG" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonesuch"], "nonesuch: transformers has no such model type"),
        (["vit"], "vit: transformers has no class of it with a head over tokens"),
        (["llama", "llama.txt"], "llama.txt: expected a name that ends in .py"),
        (["llama", "there.py"], "there.py: exists already"),
        (["llama", "new.py", "--like", "config.json"], "config.json: is no config of llama"),
    ],
)
def test_what_cannot_be_drafted_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.py").touch()
    Path("config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert run(["families", "new", *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert {one.name for one in tmp_path.iterdir()} == {"there.py", "config.json"}


def test_a_draft_takes_the_switches_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = AutoConfig.for_model("opt", word_embed_proj_dim=16, hidden_size=32, num_attention_heads=4, ffn_dim=20)
    config.save_pretrained(tmp_path / "narrow")
    assert run(["families", "new", "opt", str(tmp_path / "opt.py"), "--like", str(tmp_path / "narrow")]) == 0
    rows = rows_of(family_in(tmp_path / "opt.py"))
    assert rows["model.decoder.project_in.weight"][0] == "residual <- word_embed_proj_dim"
