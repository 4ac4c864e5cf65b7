"""Which checkpoint a path of the command line means, told before anything heavy is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ckptgrow.addresses.address import is_address, local_path, of_bare_name, typed
from ckptgrow.addresses.stand_ins import fetched_whole
from ckptgrow.data.directories import META, directories_in, not_prepared
from ckptgrow.errors import DataError, RequestError, listing
from ckptgrow.formats.adapters import check_is_no_adapter
from ckptgrow.formats.foreign import check_is_no_foreign_directory, check_is_no_foreign_file
from ckptgrow.storage.files.archive_signs import check_is_archive
from ckptgrow.storage.files.file_signs import Kinds, check_replaceable
from ckptgrow.storage.files.targets import IN_DIRECTORIES, check_directory, check_suffix, check_target

OF_TRAINER = re.compile(r"checkpoint-(\d+)")
CONFIG = "config.json"
JOURNAL = "journal.jsonl"  # of `ckptgrow run`
WEIGHTS = ("*.safetensors", "pytorch_model*", "model.safetensors.index.json", ".metadata", "*.distcp", "*_model_0")
PARTS = (*IN_DIRECTORIES, "*.json")  # and files without an ending


def checkpoint_at(path: Path | None) -> Path | None:
    """The checkpoint that a path means, with a remark on stderr where that is another path.

    `~` is the home directory; hf://OWNER/NAME, and a bare name that is no path, a model on the hub. A run's directory
    means the last checkpoint in it, a Trainer's output directory the latest, and a file of weights the directory around
    it, where that has a config.json. Raises RequestError where there is nothing, or nothing that could be meant.
    """
    if path is None:
        return None
    asked = path.expanduser()
    if not asked.exists():
        asked = _elsewhere(path)
    if asked.suffix == ".bin" and (asked.parent / META).is_file():
        raise RequestError(f"{path}: is prepared data, expected a checkpoint; give the checkpoint first")
    if _holds(asked, "prepared data"):
        raise RequestError(f"{path}: is what `ckptgrow data` wrote, expected a checkpoint")
    if asked.is_dir():
        if not any(asked.iterdir()):
            raise RequestError(f"{path}: is an empty directory, expected a checkpoint")
        meant = _last_of_run(asked) or (asked if _is_checkpoint(asked) else _last_within(asked))
    else:
        meant = _around(asked) if asked.suffix == ".safetensors" else asked
    if meant.is_dir():
        _check_could_be(meant)
    if meant.is_file():
        check_is_no_foreign_file(meant)
        check_is_archive(meant)
    if meant != path.expanduser() and typed(meant) != typed(path):
        print(f"note: {typed(path)}: taken for {meant}", file=sys.stderr)
    return meant


def whole_checkpoint_at(path: Path | None) -> Path | None:
    """The same for what reads files by itself: of an address all is fetched."""
    found = checkpoint_at(path)
    if found is not None:
        for one in [found, *found.rglob("*")] if found.is_dir() else [found]:
            fetched_whole(one)
    return found


def whole_checkpoints_at(paths: list[Path]) -> list[Path]:
    """The same of several."""
    return [found for path in paths if (found := whole_checkpoint_at(path)) is not None]


def data_at(words: str | None) -> str | None:
    """The words for prepared data; raises RequestError, and DataError where there are none."""
    for directory, _ in [] if words is None else directories_in(words):
        if not (directory / META).is_file():
            raise not_prepared(directory)
    return words


def run_at(directory: Path | None) -> Path | None:
    """The directory of a staged run; raises RequestError for another."""
    if directory is not None and not (directory / JOURNAL).is_file():
        raise RequestError(f"{directory}: holds no run, expected the --out of a `ckptgrow run`")
    return directory


def trained_at(directory: Path | None) -> Path | None:
    """The directory of a training; raises DataError for another."""
    if directory is not None and not (directory / "checkpoints" / "last.ckpt").is_file():
        raise DataError(f"{directory}: holds no training, expected the --out of `ckptgrow train` with a checkpoint")
    return directory


HELD: Mapping[str, tuple[str, ...]] = {
    "prepared data": (META, "train.bin"),
    "a training": ("metrics.csv", "checkpoints"),
    "a staged run": (JOURNAL,),
}


def check_place(directory: Path, kind: str) -> None:
    """Raises RequestError where a directory for one kind of output (of `HELD`) holds another, or cannot be written."""
    for other in HELD:
        if other != kind and _holds(directory, other):
            raise RequestError(f"{directory}: holds {other}, expected a directory for {kind}; choose another")
    check_directory(directory)


def check_no_training(directory: Path) -> None:
    """Raises RequestError where a new training would go into the directory of another."""
    if _holds(directory, "a training"):
        raise RequestError(
            f"{directory}: holds a run already, expected none; choose another, or --resume {directory} to go on there"
        )


def _holds(directory: Path, kind: str) -> bool:
    return all((directory / name).exists() for name in HELD[kind])


def file_of(expected: str) -> Callable[[Path | None], Path | None]:
    """Takes the path of a file; raises DataError with what was expected where there is none."""

    def found(path: Path | None) -> Path | None:
        if path is not None and not (there := path.expanduser()).is_file():
            is_there = "is a directory" if there.is_dir() else "no such file"
            raise DataError(f"{path}: {is_there}, expected {expected}")
        return path and path.expanduser()

    return found


def config_at(path: Path | None) -> Path | None:
    """Takes the path of a config, or of a directory that has one; raises DataError where there is none."""
    if path is not None and (path.expanduser() / CONFIG).is_file():
        return path.expanduser() / CONFIG
    return file_of(f"a transformers {CONFIG}, or a directory with one")(path)


def directory_of(expected: str) -> Callable[[Path | None], Path | None]:
    """Takes the path of a directory; raises DataError with what was expected there where there is none."""

    def found(path: Path | None) -> Path | None:
        if path is not None and not (there := path.expanduser()).is_dir():
            is_there = "is a file" if there.is_file() else "no such directory"
            raise DataError(f"{path}: {is_there}, expected a directory with {expected}")
        return path and path.expanduser()

    return found


def directories_of(expected: str) -> Callable[[list[Path] | None], list[Path] | None]:
    """The same of several."""
    one_of = directory_of(expected)
    return lambda paths: paths and [found for path in paths if (found := one_of(path)) is not None]


def grown_at(path: Path) -> Path:
    """Where a checkpoint is written, be it an address, with `~` as the home directory."""
    return path if is_address(path) else path.expanduser()


def output_at(path: Path) -> Path:
    """Where to write, with `~` as the home directory; raises RequestError for an address."""
    if is_address(path):
        raise RequestError(f"{typed(path)}: is an address, expected a local path; copy the output there afterwards")
    return path.expanduser()


def file_for(kinds: Kinds) -> Callable[[Path | None], Path | None]:
    """Takes the path of a file to write; raises RequestError where its ending is of none of the kinds, or a file of
    another kind is there.
    """

    def found(path: Path | None) -> Path | None:
        if path is None:
            return None
        there = output_at(path)
        if there.suffix.lower() not in kinds:
            raise RequestError(f"{path}: expected a name that ends in {' or '.join(kinds)}")
        check_replaceable(there, kinds[there.suffix.lower()])
        check_directory(there.absolute().parent)
        return there

    return found


def directory_for_work(path: Path | None) -> Path | None:
    """Takes the path of a directory to work in, made or not; raises RequestError where it cannot be written."""
    if path is not None:
        check_directory(path)
    return path


def check_paths(source: Path, target: Path, *, force: bool) -> None:
    """Raises RequestError where `target` cannot be written, or says another kind than the source's."""
    check_target(source, target, force=force)
    check_suffix(target, is_directory=source.is_dir(), besides=source.suffix)


def _elsewhere(path: Path) -> Path:
    """Where what a path names lies when it is not on this machine, fetched; raises RequestError where it is nowhere."""
    if is_address(path):
        return local_path(path)
    found = of_bare_name(str(path))
    if found is None:
        raise RequestError(f"{path}: no such file or directory, expected a checkpoint")
    return found


def _is_checkpoint(directory: Path) -> bool:
    return any(next(directory.glob(pattern), None) is not None for pattern in WEIGHTS)


def _check_could_be(directory: Path) -> None:
    """Raises RequestError for a directory in which no file is of those that checkpoints consist of."""
    files = (one for one in directory.rglob("*") if one.is_file())
    if any(one.suffix == "" or any(one.match(pattern) for pattern in PARTS) for one in files):
        return
    check_is_no_foreign_directory(directory)
    check_is_no_adapter(directory)
    names = listing(one.name for one in sorted(directory.iterdir()))
    raise RequestError(
        f"{directory}: is not a checkpoint of a known kind but a directory with {names}; name its file or the "
        "directory right above its files"
    )


def _last_of_run(directory: Path) -> Path | None:
    """The checkpoint that a staged run saved last; None where the directory is of no staged run."""
    if not (directory / JOURNAL).is_file():
        return None
    saved = [one for one in directory.glob("*/checkpoints/last.ckpt") if one.is_file()]
    if not saved:
        raise RequestError(f"{directory}: is the directory of a run that has saved nothing yet, expected a checkpoint")
    return max(saved, key=lambda one: one.stat().st_mtime_ns)


def _last_within(directory: Path) -> Path:
    """The last checkpoint of a run or a Trainer; the directory itself where it is neither."""
    numbered = [(int(match[1]), one) for one in directory.iterdir() if (match := OF_TRAINER.fullmatch(one.name))]
    if numbered:
        return max(numbered)[1]
    kept = directory if directory.name == "checkpoints" else directory / "checkpoints"
    if (kept / "last.ckpt").exists():
        return kept / "last.ckpt"
    several = list(kept.glob("*.ckpt"))
    if len(several) > 1:
        raise RequestError(
            f"{directory}: is the directory of a run, expected a checkpoint; name one of {listing(several)}"
        )
    return several[0] if several else directory


def _around(file: Path) -> Path:
    if (file.parent / CONFIG).is_file():
        return file.parent
    raise RequestError(
        f"{file}: holds weights alone, expected the config.json that tells its architecture beside it; put it there"
    )
