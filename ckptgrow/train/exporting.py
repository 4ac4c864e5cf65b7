"""What a run leaves for those who use its model: a Hugging Face directory without the training state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptgrow.conversion.converting import convert
from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.data.tokenizer_files import tokenizer_files
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.known_formats import write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.storage.files.atomic import appearing

EXPORTED = "model"  # in the run's directory


def export(checkpoint: Path, target: Path, tokenizer: str | None) -> str:
    """Writes a run's model, its tokenizer and a generation config, so that transformers' `from_pretrained` loads each;
    returns a sentence about it. What is at `target` is replaced once the new directory is whole.

    `tokenizer`: a name, a directory, or one of `data.tokenizer_files.NO_TOKENIZER`.
    """
    found = convert(checkpoint, None, "huggingface").checkpoint
    assert found is not None
    with tokenizer_files(tokenizer) as files, appearing(target) as partial:
        carried = Carried(files=tuple(files), replaced=files)
        alone = replace(found, optimizers=(), schedulers=(), scaler=None, carried=carried)
        write_checkpoint(alone, partial, silent, force=True)
        _write_generation_config(partial, pretrained_tokenizer(str(partial)) if files else None)
    return f"exported: {target}" + ("" if files else ", without a tokenizer: the data's are bytes")


def _write_generation_config(target: Path, tokenizer: Any) -> None:
    from transformers import AutoConfig, GenerationConfig

    found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(target))
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None:
        found.eos_token_id = found.pad_token_id = end
    found.save_pretrained(target)
