"""What a table of another trainer's names may say.

    Row("layers.{layer}.attention.wq.weight", "rotary heads: model.layers.{layer}.self_attn.q_proj.weight")
    Row("h.{layer}.attn.qkv.weight", Q, K, V, how="join")
    Row(("h.{layer}.gate.weight", "h.{layer}.up.weight"), GATE_UP, how="join")

A row has one name of the trainer's and one or more of transformers', or, where transformers has one tensor of what the
trainer has apart, the other way round. Words before a name of transformers' say what is done to that tensor on its way
to the trainer, `how` what makes one tensor of several:

    rotary SPACE    the rows of each head from two halves to pairs, as Meta's rotary positions turn them
    thirds SPACE    the rows of each head's query, key and value, head after head, to all queries, all keys, all values
    groups SPACE    the same of each key head's queries, its key and its value
    times C, plus C a constant; moments follow by the gradient, which is 1/C as large
    transpose       a matrix with its axes exchanged
    join            one after the other along the first axis
    group           q, k, v by key and value head: the queries that share the head, then the head's key, then its value
    stack           all layers in one tensor, the layer as the first axis, before what else `how` says
    experts         all experts in one of transformers' tensors, the expert as the first axis, before what else it says

Where the trainer's tensors are joined, they have equal shares of the rows, or as many as the space before their name
says: ("heads: Q", "kv_heads: K", "kv_heads: V").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

LAYER = "{layer}"
EXPERT = "{expert}"
JOINING = ("join", "group")


@dataclass(frozen=True)
class Part:
    """One of transformers' tensors in a row, and what is done to it on its way to the trainer, in order."""

    name: str
    steps: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, text: str) -> Part:
        """From `STEP, STEP: NAME` or `NAME`."""
        steps, _, name = text.rpartition(": ")
        return cls(name, tuple(tuple(one.split()) for one in steps.split(", ") if one))


class Row:
    """One of the trainer's tensors, or several that are one of transformers'. See the module's head.

    `or_zero`: the trainer may have it or not, in all layers alike; where it has not, transformers' tensors are zero.
    `is_buffer`: no parameter, so that no optimizer knows it.
    """

    def __init__(
        self, theirs: str | Sequence[str], *ours: str, how: str = "", or_zero: bool = False, is_buffer: bool = False
    ) -> None:
        said = [one.rpartition(": ") for one in ((theirs,) if isinstance(theirs, str) else theirs)]
        self.names = tuple(name for *_, name in said)
        self.shares = tuple(space for space, *_ in said)
        self.parts = tuple(map(Part.of, ours))
        self.how = tuple(how.split())
        self.or_zero = or_zero
        self.is_buffer = is_buffer

    @property
    def theirs(self) -> str:
        """The trainer's name, the first of several."""
        return self.names[0]

    @property
    def is_apart(self) -> bool:
        """Whether transformers has one tensor of what the trainer has apart."""
        return len(self.names) > 1 or EXPERT in self.theirs

    @property
    def is_stacked(self) -> bool:
        """Whether one tensor of the trainer's holds all layers."""
        return "stack" in self.how

    @property
    def is_renaming(self) -> bool:
        """Whether its tensors differ in nothing but their names."""
        return len(self.parts) == 1 and not self.is_apart and not self.how and not self.parts[0].steps

    @property
    def is_transformers(self) -> bool:
        """Whether the trainer's tensor is transformers' in name and form."""
        return self.is_renaming and self.theirs == self.parts[0].name


@dataclass(frozen=True, kw_only=True)
class ConfigMap:
    """The trainer's config, and transformers'.

    `at` leads to the trainer's: keys of the file's tree, or the name of a file beside it and keys in that. `fields` are
    pairs of the trainer's field and transformers' (dots lead into each); those of one of transformers' fields must be
    equal where they are there (a trainer's versions call one thing by different names), and where transformers' is
    inside another, the trainer's must be all that is inside its own. `words` are what a field of transformers' says,
    or each entry of its list, by what the trainer's says. `constants` are what transformers' must say besides, or
    where the trainer's leaves it out; with dots, where something else is there inside; `every_layer` the same of lists
    with an entry a layer, `quotients` of sizes that the trainer derives of two others. What a family's table asks for
    and no trainer's config says stands among these, so that transformers, whose import takes a second, need not be
    asked. `expects` are the values of the trainer's fields for which the map is right, `contains` words that a field
    must have in it, `needs` fields that must say something: others are refused by name. `also` are further places that
    repeat the trainer's fields.
    """

    at: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    constants: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expects: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    contains: Mapping[str, str] = field(default_factory=dict[str, str])
    needs: tuple[str, ...] = ()
    alike: Mapping[str, Any] = field(default_factory=dict[str, Any])
    every_layer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    quotients: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    words: Mapping[str, Mapping[Any, str]] = field(default_factory=dict[str, Mapping[Any, str]])
    also: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where a trainer keeps each part of a checkpoint of its own, so that another one can be converted to it.

    `kind` is that of the file or directory; `model`, `optimizer` and `step` are the keys that lead to each, the first
    of them a file where the kind is a directory of such; `step` has none where only the trainer can write it. `folder`
    is where in the directory all this lies. `groups` tells the optimizer's: one of matrices and one of vectors (by
    number, or by name and the vectors without decay), one of all parameters, or each parameter by name. `others` is
    what the trainer asks for besides, `biases` the field of its config that tells whether it has the rows that are
    `or_zero`. `head` tells whether it has a head of its own, takes its embedding for one, or does either as it is told
    to when it starts. `lacks` is what goes with an optimizer and only the trainer can know, in words for the user.
    `optimizers` are the kinds with which it goes on, any of torch's where none is named.
    """

    kind: Literal["torch", "torch-files", "dcp", "megatron"]
    model: tuple[str, ...]
    optimizer: tuple[str, ...]
    step: tuple[str, ...]
    groups: Literal["matrices, vectors", "decayed, vectors", "one", "names"]
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])
    biases: str | None = None
    folder: str = ""
    head: Literal["own", "embedding", "either"] = "own"
    lacks: str = ""
    optimizers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A trainer's way of saying a family; its rows are in the order of the trainer's module.

    `optimizer_rows` are the names and forms of the optimizer's entries where it has others than `rows`. Where
    `config` is None, the trainer leaves none on the disk, and the user passes transformers'; `model_types` are those
    that the rows say. `home` is where a converted checkpoint goes, None where there is no way back; `demands` are the
    fields of transformers' config that must be so there. `kind` is the one kind of checkpoint that has it, where its
    names do not tell.
    """

    name: str
    trainer: str
    model_types: tuple[str, ...]
    rows: tuple[Row, ...]
    optimizer_rows: tuple[Row, ...] = ()
    config: ConfigMap | None = None
    home: Home | None = None
    demands: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    kind: str | None = None

    @property
    def parameter_rows(self) -> tuple[Row, ...]:
        """The rows of the model's parameters."""
        return tuple(row for row in self.rows if not row.is_buffer)

    @property
    def rows_of_optimizer(self) -> tuple[Row, ...]:
        """The rows by which the optimizer's entries are understood."""
        return (*self.rows_of_both, *self.optimizer_rows)

    @property
    def rows_of_both(self) -> tuple[Row, ...]:
        """The rows of parameters that the optimizer has in the same form."""
        replaced = {part.name for row in self.optimizer_rows for part in row.parts}
        return tuple(row for row in self.parameter_rows if not replaced & {part.name for part in row.parts})
