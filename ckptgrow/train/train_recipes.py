"""The defaults of training, chosen in one place: what a new run does where nothing else is asked for.

modern            what current open recipes agree on (nanoGPT, torchtitan, OLMo 2, litgpt): gradients clipped at norm 1,
                  decay .1 on matrices, β .9 and .95, ε 1e-8, no dropout. The rate is constant after a short warm-up and
                  falls over the last fifth (`wsd`), so that a run can be grown, or lengthened, from any step before.
staged-training   those of the staged-training script: no clipping, decay .01, β .9 and .98, ε 1e-6, dropout as the
                  model has it, the rate linear to 0 after 1000 steps of warm-up.

Source of the second: Shen et al., arXiv 2203.06211, and its script; of `wsd`: Hu et al., arXiv 2404.06395.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptgrow.choices import ScheduleKind, TrainRecipeName


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """`min_lr_ratio`: the last learning rate over the peak. `warmup_share`: of all steps, at most `most_warmup` of
    them. `dropout` is None where a model keeps its family's own.
    """

    schedule: ScheduleKind
    min_lr_ratio: float
    warmup_share: float
    most_warmup: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    grad_clip: float
    dropout: float | None

    def warmup(self, num_steps: int) -> int:
        """The steps of warm-up of a run."""
        return min(self.most_warmup, int(num_steps * self.warmup_share))


MODERN = TrainRecipe(
    schedule="wsd",
    min_lr_ratio=0.0,
    warmup_share=0.05,
    most_warmup=2000,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    eps=1e-8,
    grad_clip=1.0,
    dropout=0.0,
)
RECIPES: Mapping[TrainRecipeName, TrainRecipe] = {
    "modern": MODERN,
    "staged-training": TrainRecipe(
        schedule="linear",
        min_lr_ratio=0.0,
        warmup_share=1 / 3,
        most_warmup=1000,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        eps=1e-6,
        grad_clip=0.0,
        dropout=None,
    ),
}
OF_SETTINGS = ("schedule", "min_lr_ratio", "weight_decay", "betas", "eps", "grad_clip")  # by the same names
