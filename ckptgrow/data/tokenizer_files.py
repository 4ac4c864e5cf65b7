"""The files by which transformers loads a tokenizer, to lie beside a model."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ckptgrow.data.pretrained_tokenizer import pretrained_tokenizer
from ckptgrow.data.token_texts import TOKENIZER_FILES

NO_TOKENIZER = (None, "bytes")  # what meta.json says of data that need none from transformers


@contextmanager
def tokenizer_files(tokenizer: str | None) -> Generator[Mapping[str, Path]]:
    """Its files by their names, for as long as the block lasts; none for one of `NO_TOKENIZER`.

    Of a directory they are its own, for what the library would write in another form. Of a name they are what
    transformers saves; raises what `pretrained_tokenizer` raises where there is none.
    """
    if tokenizer in NO_TOKENIZER:
        yield {}
    elif Path(str(tokenizer)).is_dir():
        yield files_in(Path(str(tokenizer)))
    else:
        loaded = pretrained_tokenizer(str(tokenizer))
        with TemporaryDirectory(prefix="ckptgrow-tokenizer-") as directory:
            loaded.save_pretrained(directory)
            yield files_in(Path(directory))


def files_in(directory: Path) -> Mapping[str, Path]:
    """A tokenizer's files in a directory, by their names."""
    return {name: directory / name for name in TOKENIZER_FILES if (directory / name).is_file()}
