"""Every choice between a few words, written once, for the library's types and for the commands.

Imports nothing heavy, so that the help of commands appears at once.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

# growth
How = Literal["diagonal", "tile", "pad"]  # blocks of grown matrices; "pad" copies nothing
Separation = Literal["split", "noise", "none"]  # what tells the copies of a space apart
ExpertSeparation = Literal["split", "none"]  # the same of experts
Fresh = Literal["zero-copy", "zero-random", "random-zero"]  # how what copies nothing is written, and read
FreshMoments = Literal["zero", "mean"]  # second moments of entries that copy nothing
FreshMomentRule = Literal["zero", "mean", "rare", "blend"]  # the same, with what rows of new tokens and positions have
RowInit = Literal["mean", "pieces", "copy"]  # how a new token's row begins
NewPositions = Literal["copy", "interpolate"]  # of a learned table
Place = Literal["alternate", "append", "middle"]  # of new layers
NewLayer = Literal["zero-output", "zero-norm", "copy", "random", "ode"]
DoublingLayers = Literal["alternate_id", "append_id", "alternate_copy", "append_copy"]  # the staged-training script's
LrRule = Literal["keep", "mup"]
LrRuleName = Literal["keep", "mup", "completed-p"]  # as it is asked for: Complete(d)P's name is mup's with its decay
DecayRule = Literal["trajectory", "sqrt", "keep"]  # of decoupled weight decay under lr rule mup
StepWord = Literal["keep", "auto"]
Part = Literal["optimizer", "schedule", "new"]  # of a checkpoint, that may begin anew; "new": moments of new entries
MomentRule = Literal["algebra", "unscaled"]  # of old moments: the grown model's own, or as they are

# verification
VerifyLevel = Literal["stored", "function", "full"]
VerifyDtype = Literal["float64", "float32", "bfloat16"]
VerifyDevice = Literal["cpu", "cuda"]

# conversion
Omitted = Literal["optimizer", "schedule"]  # parts of a checkpoint that need not go along
Target = Literal[
    "lightning",
    "huggingface",
    "dcp",
    "nanogpt",
    "litgpt",
    "torchtitan",
    "olmo-core",
    "torchtune",
    "megatron",
    "composer",
]

# data
Documents = Literal["lines", "files"]  # what a document of a text file is
PackedDocuments = Literal["joined", "isolated"]  # of one training sequence: whether they see each other
SpecialTokens = Literal["text", "parse"]  # what a special token spelled in the text is

# training
TrainOptimizer = Literal["adamw", "muon"]  # "muon": on hidden matrices, with AdamW on the rest
TrainRecipeName = Literal["modern", "staged-training"]  # the defaults of a new run
ScheduleKind = Literal["linear", "cosine", "wsd", "constant"]
Strategy = Literal["auto", "ddp", "fsdp"]
Accelerator = Literal["auto", "cpu", "cuda"]
Precision = Literal["32", "16-mixed", "bf16-mixed", "bf16-true", "64"]
Logger = Literal["csv", "tensorboard", "wandb"]
Frozen = Literal["none", "old-layers"]  # what does not train
AfterGrowth = Literal["go on", "stop"]  # what a run does after a growth in it
ResetPart = Literal["optimizer", "schedule", "data"]  # of a run

# evaluation
EvalDtype = Literal["float32", "bfloat16", "float16", "float64"]
Measure = Literal["lm-eval", "original"]
HubData = Literal["wikitext2", "wikitext103", "openwebtext"]

# recipes
Operator = Literal["width", "depth"]  # those that stages and probes choose between
GrowthOperator = Literal["width", "depth", "vocab", "positions", "experts"]

# planning
OperatorName = Literal["width", "depth", "both"]
SpikeRule = Literal["robust", "paper", "none"]
LawForm = Literal["kaplan", "hoffmann"]
Resampling = Literal["blocks", "curves"]  # what is drawn again for a law's errors
RateRule = Literal["log10", "natural", "gpt3"]


def words_of(choice: Any) -> tuple[str, ...]:
    """The words of one of the choices above.

    >>> words_of(LrRule)
    ('keep', 'mup')
    """
    return get_args(choice)
