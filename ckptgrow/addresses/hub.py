"""Models on the Hugging Face hub, and in its cache.

    owner/name                         a model's repository
    hf://owner/name                    the same
    hf://owner/name@revision/folder    of a branch, a tag or a commit; a folder inside, as of a Trainer's checkpoint
    hf://owner/name/folder/last.ckpt   one file, as `torch.save` writes it

Only what a checkpoint is made of is fetched (`hub_forms`): weights in one form, configs, tokenizer, training state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptgrow.addresses.hub_forms import BESIDE, FORMS, OF_TRANSFORMERS, archives_in, is_weights_file
from ckptgrow.errors import RequestError, listing

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

SECONDS = 10.0  # for the hub to answer, before it is taken as out of reach
SCHEME = "hf://"
NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
GRAMMAR = re.compile(r"hf://(?:models/)?(?P<name>[^@/]+(?:/[^@/]+)?)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+))?")


@dataclass(frozen=True)
class HubAddress:
    """A model's repository, the revision of it (None for the newest), and the folder inside ("" for the root)."""

    name: str
    revision: str | None = None
    folder: str = ""

    @classmethod
    def of(cls, typed: str) -> HubAddress:
        """The address that somebody typed; raises RequestError where it is none."""
        found = GRAMMAR.fullmatch(typed)
        if found is None:
            raise RequestError(f"{typed}: expected hf://OWNER/NAME, with @REVISION and /FOLDER where you want them")
        return cls(found["name"], found["revision"], (found["folder"] or "").strip("/"))

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.name}{revision}" + (f"/{self.folder}" if self.folder else "")


def info_of(name: str, revision: str | None = None) -> ModelInfo | None:
    """What the hub says of a model; None where the hub is out of reach, be it because HF_HUB_OFFLINE is set.

    Asked once: the library alone asks again for most of a minute. Raises HfHubHTTPError where there is no such model.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except HfHubHTTPError:
        raise
    except Exception:  # of the library that it speaks HTTP through, whichever that is
        return None


def take_cached_data_where_silent() -> None:
    """Lets `datasets` take its cache alone where the hub does not answer: it asks again for most of half a minute.

    It reads HF_DATASETS_OFFLINE when it is imported, so this sets the variable of the process before.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of the library that it speaks HTTP through, whichever that is
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


def fetched(address: HubAddress, typed: str) -> Path:
    """The directory in the hub's cache that holds a model, fetched where it is not there yet.

    `typed` is what errors call it. Raises RequestError where there is no such model, revision or folder, where it may
    not be read, and where it has no weights that can be grown.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    try:
        info = info_of(address.name, address.revision)
        if info is None:
            root = _cached(address)
        else:
            needed = _needed(address, sorted(one.rfilename for one in info.siblings or ()), typed)
            root = Path(snapshot_download(address.name, revision=address.revision, allow_patterns=needed))
    except GatedRepoError as error:
        raise RequestError(
            f"{typed}: asks for its terms to be accepted; do so at its page on the hub, then log in (hf auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise RequestError(f"{typed}: the model has no revision {address.revision!r} on the hub") from error
    except LocalEntryNotFoundError as error:
        raise RequestError(
            f"{typed}: is neither a file or directory nor a model in the hub's cache, and the hub cannot be reached"
        ) from error
    except HfHubHTTPError as error:
        raise RequestError(
            f"{typed}: is neither a file or directory nor a model on the hub that you may read; for a private one log "
            "in (hf auth login)"
        ) from error
    except (ValueError, OSError) as error:
        raise RequestError(f"{typed}: could not be fetched ({str(error).splitlines()[0][:160]})") from error
    found = root / address.folder
    if not found.exists():
        raise RequestError(f"{typed}: the hub's cache has no such folder, and the hub cannot be reached")
    names = _names_in(found) if found.is_dir() else []
    archives = [one for one in archives_in(names) if "/" not in one]
    is_one_file = len(archives) == 1 and not any(one.is_in(names) for one in FORMS[:-1])
    return found / archives[0] if is_one_file else found


def _names_in(folder: Path) -> list[str]:
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


def _cached(address: HubAddress) -> Path:
    """The snapshot in the hub's cache, where it has all that a checkpoint needs at the least; raises
    LocalEntryNotFoundError.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    if address.folder:
        try:
            root = _snapshot(address, [address.folder])
            if (root / address.folder).is_file() and not is_weights_file(address.folder):
                return root
        except LocalEntryNotFoundError:
            pass  # a folder
    begins, missing = _before(_folder(address)), LocalEntryNotFoundError(str(address))
    for beside in (BESIDE, OF_TRANSFORMERS):
        for form in FORMS:
            allowed, ignored = ([f"{begins}{one}" for one in each] for each in (form.patterns(beside), form.ignored))
            try:
                root = _snapshot(address, allowed, ignored)
            except LocalEntryNotFoundError as error:  # nothing, or not all
                missing = error
                continue
            if form.is_in(_names_in(root / begins)):
                return root
    raise missing


def _snapshot(address: HubAddress, allowed: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    from huggingface_hub import snapshot_download

    root = snapshot_download(
        address.name,
        revision=address.revision,
        allow_patterns=list(allowed),
        ignore_patterns=list(ignored),
        local_files_only=True,
    )
    return Path(root)


def _folder(address: HubAddress) -> str:
    """The folder of the checkpoint, also where one of its files of weights is named."""
    return address.folder.rpartition("/")[0] if is_weights_file(address.folder) else address.folder


def _before(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _needed(address: HubAddress, files: Sequence[str], typed: str) -> list[str]:
    """The files that make the checkpoint at an address; raises RequestError where none do, or several do."""
    if address.folder in files and not is_weights_file(address.folder):
        config = f"{_before(address.folder.rpartition('/')[0])}config.json"
        return [address.folder, *(one for one in files if one == config)]
    begins = _before(_folder(address))
    names = [one[len(begins) :] for one in files if one.startswith(begins)]
    form = next((one for one in FORMS if one.is_in(names)), None)
    if form is None:
        raise RequestError(
            f"{typed}: has no weights there as .safetensors, pytorch_model.bin, .distcp or an archive of torch.save, "
            f"expected some; it has {listing([one for one in names if '/' not in one] or files, limit=5)}"
        )
    chosen = form.chosen(names)
    whole = [one for one in chosen if one.endswith(".ckpt")]
    if form is FORMS[-1] and len(whole) > 1:
        raise RequestError(
            f"{typed}: holds {len(whole)} checkpoints, expected one; name it, as hf://{address.name}/{begins}{whole[-1]}"
        )
    return [f"{begins}{one}" for one in chosen]
