"""What a growth in width does to rounding: a remark on the result, by construction or as measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ckptgrow.errors import CkptgrowError

if TYPE_CHECKING:
    from ckptgrow.growth.request import GrowthResult

MOST_PARAMETERS = 10**9  # of models that are run to see how noise is conditioned
WHOLE = 0.5  # the spread up to which no copy has more than the whole weight


def conditioning_notes(done: GrowthResult, source: Path, config: Path | None, dialect: str | None) -> list[str]:
    """How well the function is conditioned: by construction, or where something multiplies rounding as measured in the
    real models.
    """
    noise, spread = done.record.get("noise", 0.0), done.record.get("spread", 0.0)
    if 0 < spread <= WHOLE:
        return [
            "the copies are told apart by dealing weights out: rounding multiplies nothing, in bfloat16 as in any "
            "precision"
        ]
    if noise == spread or done.out is None or int(os.environ.get("RANK", "0")):
        return []
    what = f"noise {noise:g}" if noise else f"spread {spread:g}"
    if done.num_parameters[1] > MOST_PARAMETERS:
        return [f"{what} multiplies rounding; not measured here, for the model is large: see verify"]
    from ckptgrow.verification.conditioning import conditioning

    try:
        return [one.sentence(what) for one in conditioning(source, done.out, config=config, dialect=dialect)]
    except CkptgrowError as error:  # it has grown all the same
        return [f"how {what} multiplies rounding could not be measured ({error})"]
