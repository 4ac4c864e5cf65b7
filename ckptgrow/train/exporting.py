"""What a run leaves for those who use its model: a Hugging Face directory without the training state."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptgrow.conversion.converting import convert
from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.formats.known_formats import write_checkpoint
from ckptgrow.progress import silent
from ckptgrow.storage.files.atomic import appearing

EXPORTED = "model"  # in the run's directory
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "chat_template.jinja"),
)
NO_TOKENIZER = (None, "bytes")  # what meta.json says of data that need none from transformers


def export(checkpoint: Path, target: Path, tokenizer: str | None) -> str:
    """Writes a run's model, its tokenizer and a generation config, so that transformers' `from_pretrained` loads each;
    returns a sentence about it. What is at `target` is replaced once the new directory is whole.

    `tokenizer`: a name, a directory, or one of `NO_TOKENIZER`.
    """
    found = convert(checkpoint, None, "huggingface").checkpoint
    assert found is not None
    with appearing(target) as partial:
        write_checkpoint(replace(found, optimizers=(), schedulers=(), scaler=None), partial, silent, force=True)
        loaded = None if tokenizer in NO_TOKENIZER else _with_tokenizer(partial, str(tokenizer))
        _write_generation_config(partial, loaded)
    return f"exported: {target}" + ("" if loaded is not None else ", without a tokenizer: the data's are bytes")


def _with_tokenizer(target: Path, tokenizer: str) -> Any:
    """Puts the tokenizer beside the model; returns it."""
    loaded = pretrained_tokenizer(tokenizer)
    if Path(tokenizer).is_dir():  # its own files, for what the library would write in another form
        for name in TOKENIZER_FILES:
            if (Path(tokenizer) / name).is_file():
                shutil.copy2(Path(tokenizer) / name, target / name)
    else:
        loaded.save_pretrained(target)
    return loaded


def _write_generation_config(target: Path, tokenizer: Any) -> None:
    from transformers import AutoConfig, GenerationConfig

    found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(target))
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None:
        found.eos_token_id = found.pad_token_id = end
    found.save_pretrained(target)
