"""The page on models of one's own: its commands, typed one after the other, and an example that is still one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ckptgrow.families.registry import FAMILIES
from tests.helpers.paths import DOCS, ROOT

PAGE = (DOCS / "how-to" / "own-models.md").read_text(encoding="utf-8")
OF_OWN, OF_DRAFT = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
DRAFTED = re.findall(r"families new (\S+)", OF_DRAFT)
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "bos_token_id": 1}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 2}
SMALL = """
import torch
from own_model import OwnConfig, OwnModel
config = OwnConfig(hidden_size=16, head_dim=16, num_hidden_layers=2, intermediate_size=20)
torch.save({"state_dict": OwnModel(config).state_dict(), "hyper_parameters": {"config": config.to_dict()},
            "pytorch-lightning_version": "2.5.0", "global_step": 1, "epoch": 0}, "small.ckpt")
"""


def ran(words: list[str], directory: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{directory}"}
    done = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stderr}"


def typed(block: str, directory: Path) -> None:
    for line in block.splitlines():
        ran([sys.executable, "-m", *shlex.split(line, comments=True)], directory)


def test_the_type_whose_table_is_drafted_has_none() -> None:
    assert DRAFTED and not {*DRAFTED} & {*FAMILIES}


def test_the_commands_for_a_class_of_ones_own_run(tmp_path: Path) -> None:
    program = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "own_model.py").write_text(program)
    ran([sys.executable, "-c", SMALL], tmp_path)
    typed(OF_OWN, tmp_path)


@pytest.mark.slow
def test_the_commands_for_a_drafted_table_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(DRAFTED[0], **SIZES))
    model.save_pretrained(tmp_path / "model-dir")
    typed(OF_DRAFT, tmp_path)
