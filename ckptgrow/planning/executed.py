"""A stage of a plan in the whole numbers with which `ckptgrow train` can execute it.

In a plan a step has any number of tokens; an executed step has micro × accumulation sequences. Where the two differ,
the number of steps makes up for it, so that every stage sees the plan's tokens to within one step.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptgrow.errors import RequestError
from ckptgrow.planning.law_plan import Stage

LARGEST_MICRO = 32  # sequences: what `ckptgrow train` takes by default
SMALLEST_MICRO = 8  # sequences: smaller ones leave a device idle
NEAR = 0.01  # of a batch: of those so near to the plan's, the one with the largest micro-batch
FARTHEST = 0.05  # of a batch: beyond, a law's steps do not hold any more


@dataclass(frozen=True, kw_only=True)
class Executed:
    """The numbers in a stage's commands: sequences, steps, and the peak learning rate.

    `micro`: sequences in a micro-batch; `accumulation`: micro-batches in a step; `warmup` and `rewarm`: in steps.
    """

    micro: int
    accumulation: int
    seqlen: int
    restart_step: int
    steps: int
    warmup: int
    rewarm: int | None  # None: as the trainer has it
    learning_rate: float

    @property
    def sequences(self) -> int:
        """The number of sequences in a step."""
        return self.micro * self.accumulation

    @property
    def last_step(self) -> int:
        """The step at which the stage ends, counted from the schedule's beginning."""
        return self.restart_step + self.steps

    @property
    def tokens(self) -> int:
        """The number of tokens on which the stage is trained."""
        return self.steps * self.sequences * self.seqlen


def executed(number: int, stage: Stage, seqlen: int, warmup: int, rewarm: int | None) -> Executed:
    """The stage in whole numbers; `warmup` is that of the first model, at most up to the step where a later one begins.

    Raises RequestError where sequences are too long for the batch, or where the stage has fewer steps than its warm-up.
    """
    micro, accumulation = batches(stage.batch_tokens, seqlen)
    tokens = micro * accumulation * seqlen
    where = f"stage {number}"
    if abs(tokens / stage.batch_tokens - 1) > FARTHEST:
        raise RequestError(
            f"{where}: {stage.batch_tokens:,.0f} tokens a step are not a whole number of sequences of {seqlen}, "
            f"expected a batch within {FARTHEST:.0%} of one; pass a shorter ⟦seqlen⟧ or another ⟦batch⟧"
        )
    restart, steps = round(stage.restart_step * stage.batch_tokens / tokens), round(stage.tokens / tokens)
    if steps < 1:
        raise RequestError(
            f"{where}: has no steps, expected some to train; ask for a lower ⟦target_loss⟧ or fewer ⟦stages⟧"
        )
    if stage.growth is None and warmup > steps:
        raise RequestError(f"⟦warmup_steps {warmup}⟧: {where} has {steps} steps, expected at most that")
    if stage.growth is not None and rewarm is not None and rewarm > steps:
        raise RequestError(f"⟦rewarm {rewarm}⟧: {where} has {steps} steps, expected at most that")
    is_grown = stage.growth is not None
    return Executed(
        micro=micro,
        accumulation=accumulation,
        seqlen=seqlen,
        restart_step=restart,
        steps=steps,
        warmup=min(warmup, restart) if is_grown else warmup,
        rewarm=rewarm if is_grown else 0,
        learning_rate=float(f"{stage.learning_rate:.6g}"),
    )


def batches(tokens: float, seqlen: int) -> tuple[int, int]:
    """Sequences a micro-batch, and micro-batches a step, that come near to so many tokens a step.

    Of all with 8 to 32 sequences a micro-batch, those within 1 % if there are any, else the nearest; of these the
    largest micro-batch.

    >>> batches(48 * 1024, 1024)
    (24, 2)
    """
    sequences = max(1.0, tokens / seqlen)
    if round(sequences) <= LARGEST_MICRO:
        return round(sequences), 1
    sizes = range(SMALLEST_MICRO, LARGEST_MICRO + 1)
    choices = [(micro, max(1, round(sequences / micro))) for micro in sizes]

    def rank(choice: tuple[int, int]) -> tuple[float, int]:
        off = abs(choice[0] * choice[1] / round(sequences) - 1)
        return (0.0 if off <= NEAR else off), -choice[0]

    return min(choices, key=rank)
