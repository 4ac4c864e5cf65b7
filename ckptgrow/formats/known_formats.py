"""All formats, and which of them a path holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ckptgrow.addresses.address import is_address, typed
from ckptgrow.addresses.remote_files import put
from ckptgrow.distributed import processes
from ckptgrow.errors import CheckpointError, RequestError, listing
from ckptgrow.formats.adapters import check_is_no_adapter
from ckptgrow.formats.checkpoint import Checkpoint, Format
from ckptgrow.formats.dcp import DistributedFormat
from ckptgrow.formats.deepspeed.deepspeed_format import DEEPSPEED, DeepSpeedFormat, num_bytes_of_copies
from ckptgrow.formats.foreign import check_is_no_foreign_directory, check_is_no_foreign_file
from ckptgrow.formats.fsdp import ShardedFormat
from ckptgrow.formats.huggingface import HuggingFaceFormat, bytes_of_second_copy
from ckptgrow.formats.megatron_format import MEGATRON, MegatronFormat, num_bytes_of_halves
from ckptgrow.formats.recipe_states import TORCHTUNE, RecipeStateFormat
from ckptgrow.formats.target_names import SHARED, check_name
from ckptgrow.formats.torch_directories import TorchDirectoryFormat
from ckptgrow.formats.torch_files import TorchFileFormat
from ckptgrow.progress import Progress
from ckptgrow.storage.archives.archive import DAMAGES
from ckptgrow.storage.files.atomic import appearing, check_space, clear_leftovers
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES, check_suffix, check_target
from ckptgrow.storage.tensors import num_bytes
from ckptgrow.storage.tree import tensors_in

FORMATS: tuple[Format, ...] = (
    MegatronFormat(),
    DistributedFormat(),
    ShardedFormat(),
    DeepSpeedFormat(),
    RecipeStateFormat(),
    HuggingFaceFormat(),
    TorchDirectoryFormat(),
    TorchFileFormat(),
)
HEADROOM, OF_A_TENSOR = 1.02, 2500  # alignment beside the tensors' bytes; bytes of a name, an archive's directory


def format_of(path: Path) -> Format:
    """The format that recognises a path; raises CheckpointError where there is none, or no file."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory, expected a checkpoint")
    check_is_no_adapter(path)
    check_is_no_foreign_file(path)
    for one in FORMATS:
        if one.recognises(path):
            return one
    check_is_no_foreign_directory(path)
    inside = [one.name for one in sorted(path.iterdir()) if _is_directory_of_one(one)] if path.is_dir() else []
    if inside:
        raise CheckpointError(f"{path}: is no checkpoint but holds {listing(inside)}, expected one; name one of these")
    raise CheckpointError(
        f"{path}: is not a checkpoint of a known kind but {_contents(path)}, expected "
        f"{' or '.join(one.kind for one in FORMATS)}; name its file or the directory right above its files"
    )


def _is_directory_of_one(path: Path) -> bool:
    """Whether a path is a directory that some format recognises."""
    return path.is_dir() and any(one.recognises(path) for one in FORMATS)


def _contents(path: Path) -> str:
    """What a path is that no format recognises."""
    if path.is_file():
        return f"a file of {path.stat().st_size:,} bytes"
    names = [one.name for one in path.iterdir()]
    return f"a directory with {listing(names)}" if names else "an empty directory"


def writer_of(kind: str, max_shard_bytes: int = DEFAULT_SHARD_BYTES) -> Format:
    """The format that writes a kind; `max_shard_bytes` bounds the files of a directory's weights."""
    writers: Mapping[str, Format] = {
        **dict.fromkeys(("lightning", "torch"), TorchFileFormat()),
        "torch-files": TorchDirectoryFormat(),
        "dcp": DistributedFormat(),
        MEGATRON: MegatronFormat(),
        "fsdp": ShardedFormat(),
        DEEPSPEED: DeepSpeedFormat(max_shard_bytes),
        TORCHTUNE: RecipeStateFormat(max_shard_bytes),
        **dict.fromkeys(("huggingface", "trainer", "accelerate"), HuggingFaceFormat(max_shard_bytes)),
    }
    return writers[kind]


def check_output(source: Path, target: Path, *, force: bool, kind: str | None = None) -> None:
    """Raises RequestError where writing a checkpoint to `target` would touch its source, or replace something without
    `force`, or replace what is not a checkpoint, or where the name says another kind than `kind` (the source's).
    """
    check_target(source, target, force=force)
    if kind is None:
        check_suffix(target, is_directory=source.is_dir(), besides=source.suffix)
    else:
        check_name(target, kind)
    if is_address(target):
        return
    there, here = target.resolve(), source.resolve()
    if there in here.parents or here in there.parents:
        raise RequestError(f"{target}: one of input and output lies inside the other, expected a path beside {source}")
    if target.is_dir() and any(target.iterdir()) and not any(one.recognises(target) for one in FORMATS):
        raise RequestError(f"{target}: is a directory with something else than a checkpoint; choose another path")


def write_checkpoint(
    checkpoint: Checkpoint,
    target: Path,
    progress: Progress,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    *,
    force: bool,
) -> None:
    """Writes a checkpoint as its kind; it appears whole or not at all. All processes of torchrun must call this.

    Raises RequestError where the disk has too little room, the kind cannot be written by several processes, or, without
    `force`, something has come to be at `target` meanwhile.
    """
    if is_address(target):
        _write_elsewhere(checkpoint, target, progress, max_shard_bytes)
        return
    together = processes()
    if together.count > 1 and checkpoint.kind not in SHARED:
        raise RequestError(
            f"{checkpoint.path}: {together.count} processes share the writing of {' and '.join(SHARED)} checkpoints "
            "alone; convert it first (ckptgrow convert ⟦to dcp⟧), or run one process"
        )
    total, needed = _sizes(checkpoint)
    if together.rank == 0 and clear_leftovers(target):
        force = True  # what is back was on its way to be replaced
    together.wait()
    check_space(target, needed)
    advance = progress(total)
    try:
        with appearing(target, together, force=force) as partial:
            writer_of(checkpoint.kind, max_shard_bytes).write(checkpoint, partial, advance)
    except OSError as error:
        if error.filename is not None:
            raise
        raise RequestError(
            f"{target}: could not be written ({error.strerror}); make room or choose another disk"
        ) from error


def _write_elsewhere(checkpoint: Checkpoint, target: Path, progress: Progress, max_shard_bytes: int) -> None:
    """Writes here first, and puts it to its address when it is whole."""
    if processes().count > 1:
        raise RequestError(f"{typed(target)}: several processes write to a path that all of them see; give such a one")
    with TemporaryDirectory(prefix="ckptgrow-") as name:
        made = Path(name, target.name)
        write_checkpoint(checkpoint, made, progress, max_shard_bytes, force=False)
        put(made, typed(target))


def space_needed(checkpoint: Checkpoint) -> int:
    """The bytes that must be free where a checkpoint is written."""
    return _sizes(checkpoint)[1]


def _sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """The bytes of all tensors as they are written, and those that the whole checkpoint takes."""
    tensors = [tensor for _, tensor in tensors_in(checkpoint.tree)]
    stored = tensors if checkpoint.kind in SHARED else {id(tensor): tensor for tensor in tensors}.values()
    total = sum(map(num_bytes, stored))  # a distributed checkpoint has what is tied under each of its names
    total += bytes_of_second_copy(checkpoint) + num_bytes_of_copies(checkpoint) + num_bytes_of_halves(checkpoint)
    return total, int(total * HEADROOM) + len(tensors) * OF_A_TENSOR + checkpoint.carried.num_bytes


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path, whatever its format; its tensors stay on disk until their rows are asked for."""
    found = format_of(path)
    try:
        return found.read(path)
    except DAMAGES as error:  # a file may be malformed in more ways than there are checks
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: malformed, expected {found.kind} ({type(error).__name__}: {reason})") from error
