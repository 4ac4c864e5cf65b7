"""What is said of a file that no trainer's dialect fits: which were tried, and what of the file does not fit each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ckptgrow.errors import CheckpointError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.megatron_format import MEGATRON
from ckptgrow.state.fitting_dialects import fitting_dialects
from ckptgrow.storage.files.json_files import config_in_file

EXPERTS = re.compile(r"\.mlp\.(experts|shared_experts|router)\.")
MOST_NAMED = 3  # dialects of one trainer, where all say the same


def check_has_no_megatron_experts(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a mixture of Megatron's in its own names, which no dialect says."""
    told = _megatrons_experts(checkpoint)
    if told is not None:
        raise CheckpointError(f"{checkpoint.path}: {told}")


def _megatrons_experts(checkpoint: Checkpoint) -> str | None:
    """What is said of such a mixture; None of any other checkpoint."""
    experts = [name for name in checkpoint.tensors if EXPERTS.search(name)]
    if checkpoint.kind != MEGATRON or not experts:
        return None
    return (
        f"is a mixture of Megatron's ({listing(experts, 2)}), expected a model without experts; convert it to "
        "transformers' form with Megatron-Bridge and grow that, or say its names with ⟦dialect FILE⟧"
    )


def why_unknown(checkpoint: Checkpoint, config: Path | None = None) -> str:
    """Which trainers' dialects were tried, and what of a checkpoint does not fit each; where its names are those of
    some, what else does not fit these alone.
    """
    told = _megatrons_experts(checkpoint)
    if told is not None:
        return told
    _, misfits = fitting_dialects(checkpoint, None if config is None else config_in_file(config), None)
    reasons = {name: one.reason for name, one in misfits.items() if one.has_its_names}
    if reasons:
        others = ", ".join(_shortened([name for name in misfits if name not in reasons]))
        return f"its names are those of {_said_of(reasons)}; other names than those of {others}"
    return f"tried {_said_of({name: one.reason for name, one in misfits.items()})}"


def _said_of(reasons: Mapping[str, str]) -> str:
    """Dialects with what does not fit them."""
    alike: dict[str, list[str]] = {}  # what was found, by which dialects; what they expected instead differs
    for name, reason in reasons.items():
        alike.setdefault(reason.partition(", expected ")[0], []).append(name)
    told = [
        f"{names[0]} ({reasons[names[0]]})" if len(names) == 1 else f"{', '.join(_shortened(names))} ({found})"
        for found, names in alike.items()
    ]
    return "; ".join(told)


def _shortened(names: Sequence[str]) -> Iterator[str]:
    """Names of dialects, of which many of one trainer are one: `litgpt-… (7)`."""
    stems = Counter(name.partition("-")[0] for name in names)
    for stem in dict.fromkeys(name.partition("-")[0] for name in names):
        if stems[stem] > MOST_NAMED:
            yield f"{stem}-… ({stems[stem]})"
        else:
            yield from (name for name in names if name.partition("-")[0] == stem)
