"""What a table says about a family of architectures: its parameters, sizes, and what cannot grow exactly. Only data.

A new family is one file with one `Family`, one row in `registry`, and one tiny config in the contract test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Head = Literal[
    "causal",
    "masked",
    "seq2seq",
    "image",
    "sequence",
    "tokens",
    "questions",
    "choices",
    "next sentence",
    "pretraining",
    "valued",
]
UNITS = ("heads", "kv_heads", "ffn", "dense_ffn")


@dataclass(frozen=True)
class Parameter:
    """One parameter, or one in each layer: `{layer}` in its name stands for the layer's index."""

    name: str
    layout: str
    # it exists where this holds: "FIELD", "not FIELD", "FIELD == OTHER", "FIELD != OTHER", or several joined by "and";
    # OTHER is a number, another field, or a word that is the value itself
    when: str | None = None
    # the layers that have it: "all", "later" (all but the first), "last" or "but last", "sparse" or "dense" (see
    # Sparse), "LIST == KIND" or "LIST == KIND or OTHER" of a config list with an entry a layer, "in LIST" or "not in
    # LIST" of one with numbers, "every KIND" or "but every KIND" of one in `periodic`
    layers: str = "all"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Where the size of a space comes from: a config field, or else what the architecture derives it from."""

    config: str | None = None
    same: str | None = None  # the size of that space
    times: tuple[int, str] | None = None  # so many times the size of that space
    share: tuple[int, str] | None = None  # one of so many equal parts of the size of that space
    sum: tuple[str, ...] = ()  # the sum of the sizes of those spaces
    product: tuple[str, ...] = ()  # their product
    ratio: tuple[str, str] | None = None  # the size of the first space over that of the second
    squared_ratio: tuple[str, str] | None = None  # the same, squared: patches of a square image
    is_optional: bool = False  # the config may say null or 0, and then the model has no such space: its size is 0


@dataclass(frozen=True)
class InPieces:
    """A parameter that files store as one tensor for each `{expert}` and part; parts follow each other as rows."""

    name: str
    parts: tuple[Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A head that is the same tensor as the embedding where the config says so."""

    head: str
    embedding: str
    config: str = "tie_word_embeddings"
    default: bool = True
    is_embedding_if_lacking: bool = (
        False  # whether a head that no file holds is the embedding, whatever the config says
    )


@dataclass(frozen=True)
class Padding:
    """What growing the residual stream by fresh coordinates needs to know.

    `norm`: the kind of norm across it; `eps`: the config field of its ε, None where that must stay, because other
    norms share it or no field says it: then the stream is √(new size / old size) as large. `scale`: spaces that are
    written with the factor (new size / old size)^power, for that, and to make up for what the model multiplies by a
    power of the hidden size; `scale_tied`: the same where the head is tied.
    """

    norm: Literal["layer", "rms"]
    eps: str | None
    scale: Mapping[str, float] = field(default_factory=dict[str, float])
    scale_tied: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """The config fields that say which layers have experts: those to which all rules agree that the family has.

    `step`: every so many-th layer; `dense`: a list of layers that have none; `first`, `last`: the layers from this one
    on, up to that one; `experts`: the number of experts, of which 0 means that no layer has any.
    """

    step: str | None = None
    dense: str | None = None
    first: str | None = None
    last: str | None = None
    experts: str | None = None

    @property
    def rules(self) -> tuple[str, ...]:
        """The fields whose values follow the layers where these move."""
        return tuple(field for field in (self.step, self.dense, self.first, self.last) if field is not None)


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """A size that the model makes of its config field where the condition `when` holds: ⅔ of it, times a number in the
    field `multiplier`, rounded up to a multiple of that in `multiple`. A grown config says the size itself.
    """

    when: str
    field: str
    multiplier: str
    multiple: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The config fields that the rule reads."""
        return self.when, self.field, self.multiplier, self.multiple

    def of(self, value: int, multiplier: float | None, multiple: int) -> int:
        """The size for a value of the field, and those of the other two."""
        size = int(2 * value / 3)
        return size if multiplier is None else -(-int(multiplier * size) // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a router chooses a token's experts, and weighs those that it chose.

    `chosen`: the config field of how many. `scores`: by "softmax", so that those of all experts sum to 1, or by
    "sigmoid", each of its own. `normalised`: where the weights of those chosen sum to 1, whatever their scores; None:
    always. `bias`: the tensor that is added to scores for the choice alone, in the space "choice". `groups`: the config
    fields of how many groups the experts lie in, and of how many of these a token's may be.
    """

    chosen: str = "num_experts_per_tok"
    scores: Literal["softmax", "sigmoid"] = "softmax"
    normalised: str | None = None
    bias: str | None = None
    groups: tuple[str, str] | None = None


@dataclass(frozen=True)
class Refusal:
    """An operator that is not exact for this family, always or where a config field is set, and why."""

    operator: str  # "width", "depth", "heads", "ffn", "hidden", …
    reason: str
    when: str | None = None  # None: always


@dataclass(frozen=True, kw_only=True)
class TaskHead:
    """What another of the family's classes has in the place of the table's head, or beside it.

    `classes`: how transformers ends their names; `parameters`: those that the table has not, a pooler's first;
    `base_prefix`: the attribute of the backbone, where that is another one; `part`: beginnings of the only names that
    the class has of the backbone; `keeps_head`: whether the table's own head stays. `padding` replaces the table's.
    """

    classes: tuple[str, ...]
    head: Head
    parameters: tuple[Parameter, ...]
    base_prefix: str | None = None
    part: tuple[str, ...] = ()
    keeps_head: bool = False
    padding: Padding | None = None


@dataclass(frozen=True, kw_only=True)
class OfDense:
    """Of which dense families a mixture has the attention, the norms and the ends, so that theirs can become one.

    `families`: by their names the fields that the mixture's config has then; `fields`: those that it has for all of
    them, under which the weights of a token's experts sum to 1. `without`: fields that only dense configs have, with
    what they must say (of a list: every entry) for the mixture to compute the same; `unheard`: those that say nothing
    of what is computed.
    """

    families: Mapping[str, Mapping[str, object]]
    fields: Mapping[str, object] = field(default_factory=dict[str, object])
    without: Mapping[str, object] = field(default_factory=dict[str, object])
    unheard: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's table; names are those of the transformers model with its head (`AutoModelForCausalLM`)."""

    model_type: str
    parameters: tuple[Parameter, ...]
    sizes: Mapping[str, Size]
    num_layers: str  # the config field, or a list with an entry a layer; of a stack in `stacks` another one
    base_prefix: str  # the attribute of the backbone, absent from files that hold the backbone alone
    head: Head = "causal"
    tie: Tie | None = None
    twins: tuple[
        tuple[str, str], ...
    ] = ()  # tensors that are one, where the first has no row: another name, and that of the parameter
    twins_if_tied: tuple[tuple[str, str], ...] = ()  # the same, where the head is tied to the embedding
    pieces: tuple[InPieces, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()  # (part of a name, what stands there in some files)
    shrunken: Mapping[str, float] = field(default_factory=dict[str, float])  # spaces written k^-power by k copies
    shrunken_tied: Mapping[str, float] = field(default_factory=lambda: {"final": 1.0})  # the same with a tied head
    made: Mapping[str, str] = field(default_factory=dict[str, str])  # spaces that the model's code makes of others
    buffers: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()  # parameters that the module sets by itself, of which no optimizer has moments
    dropout: tuple[str, ...] = ()  # config fields; any above zero separates copies by itself
    activation: str | None = None  # the config field that names it, where one alone stands between two matrices
    padding: Padding | None = None  # None: new coordinates cannot be written so that nothing sees them
    residual: tuple[str, ...] = ("residual", "normed", "final")  # spaces that grow together with the hidden size
    units: tuple[str, ...] = UNITS  # further spaces that grow where everything does
    stacks: Mapping[str, str] = field(default_factory=dict[str, str])  # beginning of names, config field of its layers
    unused_positions: int = 0  # RoBERTa's positions begin beyond its padding token's number
    longest: str = "max_position_embeddings"  # the config field of the longest sequence, where positions are computed
    layer_lists: tuple[str, ...] = ()  # config lists with one entry a layer; transformers derives those left out
    layer_numbers: tuple[str, ...] = ()  # config lists with the numbers of layers
    # kinds of layers that come round, and for each the config fields of the period and of the offset in it
    periodic: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    restated: tuple[str, ...] = ()  # config fields that say again what lists of layers do: deeper configs have none
    of_depth: Mapping[str, float] = field(default_factory=dict[str, float])  # fields times (new / old layers)^power
    sparse: Sparse | None = None
    rounding: Rounding | None = None
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])  # other names of fields of sizes and layers
    equal: Mapping[str, str] = field(default_factory=dict[str, str])  # fields that the model wants equal to another one
    choice: Choice = Choice()  # of a mixture: how a token's experts are chosen
    of_dense: OfDense | None = None  # of a mixture: what can become one
    refusals: tuple[Refusal, ...] = ()
    tasks: tuple[TaskHead, ...] = ()  # the heads of the family's other classes
    depth_is_exact: bool = True
    original_sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
