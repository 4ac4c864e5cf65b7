"""A config whose fields are mistyped makes no other model in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from ckptgrow.errors import ConfigError
from ckptgrow.train.config_fields import check_fields
from tests.helpers.commands import refused
from tests.helpers.families import CASES, COMMON, OWN_NAMES, VOCABULARY


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("hiden_size", "hidden_size"), ("num_hidden_layer", "num_hidden_layers"), ("num_kv_heads", "num_key_value_heads")],
)
def test_a_mistyped_field_is_named_with_the_one_that_was_meant(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"llama configs have no field {wrong}; did you mean {meant}"):
        check_fields({"model_type": "llama", wrong: 4})
    check_fields({"model_type": "llama", wrong: 4, meant: 4})  # nothing is left at its default


def test_fields_of_ones_own_and_older_names_are_kept() -> None:
    check_fields({"model_type": "llama", "my_note": "x", "rope_theta": 1e6, "torch_dtype": "float32", "_id": 1})
    check_fields({"model_type": "gpt2", "hidden_size": 8, "num_attention_heads": 2})


@pytest.mark.sampled(20)
@pytest.mark.parametrize("case", CASES)
def test_every_family_has_only_fields_that_transformers_knows(case: str) -> None:
    model_type, fields = CASES[case]
    common = {} if model_type in OWN_NAMES else dict(COMMON)
    written = {"vocab_size": VOCABULARY, **common, **fields}
    check_fields({"model_type": model_type, **written})
    check_fields(AutoConfig.for_model(model_type, **written).to_dict())


def test_two_words_for_the_model_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    words = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--size", "GPT2_base"]
    refused([*words, "--config", str(tmp_path)], capsys, "--size GPT2_base and --config exclude each other")
