"""From one kind to another: what is read is understood, and each part is put where the other kind has it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.addresses.address import local_path
from ckptgrow.choices import Omitted, Target, words_of
from ckptgrow.conversion.for_directories import for_huggingface, for_the_same_directory
from ckptgrow.conversion.for_modules import for_composer, for_lightning, for_the_same_module
from ckptgrow.conversion.renamed_parts import with_names
from ckptgrow.conversion.restated_optimizers import restated
from ckptgrow.conversion.target_kinds import families_of, kind_of
from ckptgrow.data.tokenizer_files import tokenizer_files
from ckptgrow.distributed import processes
from ckptgrow.errors import RequestError
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.known_formats import check_output, write_checkpoint
from ckptgrow.progress import Progress, silent
from ckptgrow.state.averaged_weights import averaged
from ckptgrow.state.into_dialect import dialect_for, in_dialect
from ckptgrow.state.opening import TrainingState, open_state
from ckptgrow.state.run_data import run_data_of
from ckptgrow.state.translated_optimizers import with_zeros
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES
from ckptgrow.storage.tensors import num_elements

DIRECTORIES = ("huggingface", "trainer", "accelerate", "fsdp")  # their parts lie in files of one kind
LIKE_LIGHTNING = ("lightning", "dcp")  # both hold Lightning's keys
PREFIX = "model."  # what a LightningModule calls its model, most often


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion did: `kinds` before and after; `left_out`: what the target has no place for; `notes`: what
    is said in other numbers there. `out` is None where nothing was written: `checkpoint` is what would have been.
    `tokenizer`: the run's, whose files lie beside the model; None where the checkpoint knows of none.
    """

    out: Path | None
    kinds: tuple[str, str]
    num_parameters: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    tokenizer: str | None = None


def convert(
    source: str | Path,
    target: str | Path | None,
    to: Target,
    *,
    config: Path | None = None,
    drop: Sequence[str] = (),
    reset: Sequence[Omitted] = (),
    param_order: Path | None = None,
    dialect: str | None = None,
    is_averaged: bool = False,
    prefix: str = PREFIX,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    force: bool = False,
    progress: Progress = silent,
) -> Converted:
    """Writes a checkpoint as another kind, with equal bits for all that this kind has a place for; without a target
    nothing is written, and the result holds what would have been.

    `is_averaged`: takes the average of the weights beside them instead, without optimizers.
    `reset`: parts that stay behind.
    `prefix`: stands before the model's names in Lightning's kinds. Raises RequestError for an unknown kind, and another
    CkptgrowError for what is wrong with the source.
    """
    if to not in words_of(Target):
        raise RequestError(f"⟦to {to}⟧: expected {', '.join(words_of(Target))}")
    source = local_path(source)
    if target is not None:
        check_output(source, Path(target), force=force, kind=kind_of(to))
    processes().wait()  # all have looked before one writes
    state = open_state(source, config=config, drop=drop, reset=reset, param_order=param_order, dialect=dialect)
    if is_averaged:
        state = averaged(state)
    if state.translation is not None:
        state = replace(state, optimizers=tuple(with_zeros(one, state.translation.absent) for one in state.optimizers))
    found = restated(state, to)
    new, left_out = _for(found.state, to, prefix)
    tokenizer = run_data_of(state.checkpoint).tokenizer if new.kind == "huggingface" and not new.carried.files else None
    with _told_files(tokenizer, left_out) as files:
        if files:
            new = replace(new, carried=replace(new.carried, files=tuple(files), replaced=files))
        if target is not None:
            write_checkpoint(new, Path(target), progress, max_shard_bytes, force=force)
    return Converted(
        out=None if target is None else Path(target),
        kinds=(state.checkpoint.kind, new.kind),
        num_parameters=sum(num_elements(state.checkpoint.tensors[one.name]) for one in state.claim.parameters),
        left_out=(*found.left_out, *left_out),
        notes=found.notes,
        checkpoint=new if target is None else None,
        tokenizer=tokenizer if files else None,
    )


@contextmanager
def _told_files(tokenizer: str | None, left_out: list[str]) -> Generator[Mapping[str, Path]]:
    """The files of the tokenizer that a checkpoint records; where it is no longer to be had, that is left out."""
    with ExitStack() as stack:
        try:
            files = stack.enter_context(tokenizer_files(tokenizer))
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            files = {}
            left_out.append(f"the tokenizer {tokenizer}, which is not there any more")
        yield files


def _for(state: TrainingState, to: Target, prefix: str) -> tuple[Checkpoint, list[str]]:
    """A state as the other kind has it, and what is left out."""
    kind = state.checkpoint.kind
    if kind in LIKE_LIGHTNING and to in LIKE_LIGHTNING:
        return for_the_same_module(state, to)
    if kind in DIRECTORIES and to == "huggingface":
        return for_the_same_directory(state)
    if to == "composer":
        return for_composer(state)
    if families_of(to):
        new, left_out = for_huggingface(with_names(state))
        made, others = in_dialect(new, state.architecture, dialect_for(to, state.architecture))
        return made, [*left_out, *others]
    return for_huggingface(state) if to == "huggingface" else for_lightning(state, to, prefix)
