"""Which files of a repository make a checkpoint: one form of it, and what lies beside.

Patterns are fnmatch's, in which `*` matches slashes too, as the hub's own library takes them; names are relative to the
checkpoint's folder. A form's `depth` says how deep below it files are looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

WEIGHTS_OF_TORCH, WEIGHTS_OF_SAFETENSORS = "pytorch_model*.bin", "model*.safetensors"
BESIDE = (
    *("*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"),
    *("optimizer*", "scheduler*", "scaler*", "rng_state*", "pytorch_model_fsdp*", "training_args.bin"),
    *("recipe_state.pt", "*.yaml", "latest"),
)
OF_TRANSFORMERS = ("config.json", "*.index.json")  # what `from_pretrained` fetches beside weights
ARCHIVES = ("*.ckpt", "*.pt", "*.pth", "*.tar")


@dataclass(frozen=True)
class HubForm:
    """A form that checkpoints have: one is there where a file matches `signs`; `parts` belong to it, as what matches
    BESIDE does, and what is in `without` belongs to another form.
    """

    signs: tuple[str, ...]
    parts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    depth: int = 0

    def is_in(self, names: Iterable[str]) -> bool:
        """Whether files of these names are a checkpoint of this form."""
        return any(_matches(one, self.signs) and one.count("/") <= self.depth for one in names)

    def patterns(self, beside: Sequence[str] = BESIDE) -> tuple[str, ...]:
        """What belongs to it."""
        return (*self.signs, *self.parts, *beside)

    @property
    def ignored(self) -> tuple[str, ...]:
        """What does not, though it matches these patterns."""
        return ("*/" * (self.depth + 1) + "*", *self.without)

    def chosen(self, names: Iterable[str]) -> list[str]:
        """The names of the files that belong to it."""
        return [one for one in names if _matches(one, self.patterns()) and not _matches(one, self.ignored)]


FORMS = (  # the first that there is: whole states before weights alone, as formats are recognised
    HubForm((".metadata",), ("*.distcp", "*.pt")),
    HubForm(("model_and_optim/.metadata",), ("model_and_optim/*", "train/*"), depth=1),
    HubForm(("pytorch_model_fsdp_0/.metadata",), ("pytorch_model_fsdp_0/*", "optimizer_*/*"), depth=1),
    HubForm(("*mp_rank_*_model_states.pt",), ("*_states.pt", "latest*", WEIGHTS_OF_SAFETENSORS), depth=1),
    *(
        HubForm((pattern,), without=("pytorch_model.bin.index.json",))
        for pattern in (WEIGHTS_OF_SAFETENSORS, "*.safetensors")
    ),
    HubForm((WEIGHTS_OF_TORCH,), without=("model.safetensors.index.json",)),
    HubForm(ARCHIVES),
)


def is_weights_file(name: str) -> bool:
    """Whether a file is a part of a directory's weights, so that whoever names it means the directory."""
    return _matches(name.rpartition("/")[2], ("*.safetensors", WEIGHTS_OF_TORCH))


def archives_in(names: Iterable[str]) -> list[str]:
    """The files that torch.save may have written, each with a whole checkpoint."""
    return [one for one in names if _matches(one, ARCHIVES)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, one) for one in patterns)
