"""Tokenizers of transformers by their name, at once where there is no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptgrow.addresses.hub import info_of


def pretrained_tokenizer(name: str) -> Any:
    """The tokenizer of a directory, or of a name on the hub; of its local cache alone where the hub does not answer.

    Asked once, where transformers alone asks again and again for most of a minute. Raises what transformers raises
    where there is none: OSError, ValueError, KeyError, TypeError or ImportError.
    """
    from transformers import AutoTokenizer

    is_local = Path(name).is_dir() or not _answers(name)
    return AutoTokenizer.from_pretrained(name, local_files_only=is_local)


def _answers(name: str) -> bool:
    """Whether the hub says anything of a name, be it that there is none."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return info_of(name) is not None
    except HfHubHTTPError:
        return True
