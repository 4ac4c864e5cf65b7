"""Tokenizers of transformers by their name, at once where there is no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECONDS = 10.0  # for the hub to answer, before what it lies on is taken as missing


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
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(name, timeout=SECONDS)
    except HfHubHTTPError:
        return True
    except Exception:  # of the library that it speaks HTTP through, whichever that is
        return False
    return True
