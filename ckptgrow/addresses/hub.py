"""Models on the Hugging Face hub, and in its cache.

    owner/name                         a model's repository
    hf://owner/name                    the same
    hf://owner/name@revision/folder    of a branch, a tag or a commit; a folder inside, as of a Trainer's checkpoint

Only what a checkpoint is made of is fetched: weights in one form, configs, tokenizer, training state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from ckptgrow.errors import RequestError, listing

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

SECONDS = 10.0  # for the hub to answer, before it is taken as out of reach
SCHEME = "hf://"
NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
GRAMMAR = re.compile(r"hf://(?:models/)?(?P<name>[^@/]+(?:/[^@/]+)?)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+))?")
WEIGHTS = (("model*.safetensors",), ("*.safetensors",), ("pytorch_model*.bin",))  # the first form that there is
OTHER_INDEX = {".safetensors": "pytorch_model.bin.index.json", ".bin": "model.safetensors.index.json"}
BESIDE = (
    *("*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"),
    *("optimizer*", "scheduler*", "scaler*", "rng_state*", "pytorch_model_fsdp*", "training_args.bin"),
)


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
            needed = _needed(address, [one.rfilename for one in info.siblings or ()], typed)
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
    if not found.is_dir():
        raise RequestError(f"{typed}: the hub's cache has no such folder, and the hub cannot be reached")
    return found


def _cached(address: HubAddress) -> Path:
    """The snapshot in the hub's cache, where it has all that a checkpoint needs at the least; raises
    LocalEntryNotFoundError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    begins = f"{address.folder}/" if address.folder else ""
    missing = LocalEntryNotFoundError(str(address))
    for beside in (BESIDE, ("config.json", "*.index.json")):  # all, and what `from_pretrained` fetches of all
        for form in WEIGHTS:
            try:
                root = snapshot_download(
                    address.name,
                    revision=address.revision,
                    allow_patterns=[f"{begins}{one}" for one in (*form, *beside)],
                    ignore_patterns=[f"{begins}*/*", f"{begins}{OTHER_INDEX[Path(form[0]).suffix]}"],
                    local_files_only=True,
                )
            except LocalEntryNotFoundError as error:  # nothing, or not all
                missing = error
                continue
            if any(next(Path(root, address.folder).glob(one), None) is not None for one in form):
                return Path(root)
    raise missing


def _needed(address: HubAddress, files: Sequence[str], typed: str) -> list[str]:
    """The files in the address's folder that make a checkpoint, and the index of the form of weights that is taken."""
    begins = f"{address.folder}/" if address.folder else ""
    here = {one[len(begins) :]: one for one in files if one.startswith(begins) and "/" not in one[len(begins) :]}
    forms = ([one for one in here if any(fnmatch(one, each) for each in form)] for form in WEIGHTS)
    weights = next((form for form in forms if form), [])
    if not weights:
        raise RequestError(
            f"{typed}: has no weights there as .safetensors or pytorch_model.bin, expected some; it has "
            f"{listing(sorted(here) or sorted(files), limit=5)}"
        )
    beside = [one for one in here if any(fnmatch(one, each) for each in BESIDE) and one not in weights]
    other = OTHER_INDEX[".safetensors" if weights[0].endswith(".safetensors") else ".bin"]
    return [here[one] for one in (*weights, *beside) if one != other]
