"""What a dialect says in a model of some sizes: every row in every layer, with its names and forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ckptgrow.dialects.dialect import EXPERT, LAYER, Row
from ckptgrow.dialects.forms import Form
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Shape, expected_shapes
from ckptgrow.state.cover import Cover, Instance, names_in_module_order, numbered
from ckptgrow.state.translated_optimizers import Entries, OptimizerTerms


@dataclass(frozen=True, kw_only=True)
class Term:
    """What a row says in a layer: the trainer's tensors, none where it lacks them (`is_absent`), and transformers'."""

    row: Row
    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    form: Form
    is_absent: bool


@dataclass(frozen=True)
class Terms:
    """A cover in a model of some sizes: every row in every layer; `has_optimizers_rows` tells whether the optimizer has
    the rows of its own.
    """

    cover: Cover
    architecture: Architecture
    has_optimizers_rows: bool

    @cached_property
    def weights(self) -> tuple[Term, ...]:
        """The tensors of the file, instance by instance."""
        rows = self.cover.dialect.rows
        return tuple(term for instance in self.cover.instances for row in rows for term in self._of(row, instance))

    @cached_property
    def optimizer(self) -> OptimizerTerms:
        """The entries of optimizers, of the model's own parameters; a head that is the embedding has no other entry,
        and both are called what comes first.
        """
        dialect = self.cover.dialect
        rows = dialect.rows_of_optimizer if self.has_optimizers_rows else dialect.parameter_rows
        terms = [term for row in rows for term in self._of(row, self.cover.instances[0]) if not term.is_absent]
        tie = self.architecture.family.tie
        if tie is not None and self.architecture.is_tied:
            one = {tie.head, tie.embedding}
            shared = [term for term in terms if {*term.ours} & one]
            embedding = next(term for term in shared if tie.embedding in term.ours)
            first = replace(embedding, theirs=shared[0].theirs)
            terms = [first if term is shared[0] else term for term in terms if term not in shared[1:]]
        return tuple(Entries(theirs=term.theirs, ours=term.ours, form=term.form) for term in terms)

    @cached_property
    def own_order(self) -> dict[str, int]:
        """The place in the trainer's module of every entry of an optimizer that has only names of its own."""
        dialect = self.cover.dialect
        if not self.has_optimizers_rows or dialect.rows_of_both:
            return self.module_order
        spelling = self.cover.instances[0].spelling
        rows = [Row([spelling.get(name, name) for name in row.names]) for row in dialect.optimizer_rows]
        names = names_in_module_order(rows, self.cover.num_layers)
        return {name: place for place, name in enumerate(names)}

    @cached_property
    def module_order(self) -> dict[str, int]:
        """The place in the trainer's module of every tensor, where transformers' order does not tell it: where the
        trainer has apart what is one tensor of transformers'.
        """
        cover = self.cover
        if not any(row.is_apart for row in cover.dialect.rows):
            return {}
        rows = [
            [tuple(instance.spelling[name] for name in row.names) for row in cover.dialect.rows if instance.has(row)]
            for instance in cover.instances
        ]
        names = [
            name
            for spelt in rows
            for name in names_in_module_order([Row(one) for one in spelt], cover.num_layers, cover.num_experts)
        ]
        return {name: place for place, name in enumerate(names)}

    @cached_property
    def absent(self) -> dict[str, Shape]:
        """Transformers' parameters that the trainer has not, with their shapes."""
        return {term.ours[0]: term.form.shapes[0] for term in self.weights if term.is_absent}

    def _of(self, row: Row, instance: Instance) -> Iterator[Term]:
        """The row's tensors."""
        shapes, num_layers = self._shapes, self.architecture.num_layers
        sizes = {"experts": 0, **self.architecture.sizes, "layers": num_layers}
        if any(part.name not in shapes for part in row.parts):
            return
        layers = range(num_layers)
        is_one = row.is_stacked or LAYER not in row.theirs
        for layer in (None,) if is_one else layers:
            inner = layers if row.is_stacked else (layer,)
            ours = [part.name.replace(LAYER, str(at)) for at in inner for part in row.parts]
            form = Form(row, tuple(shapes[part.name] for _ in inner for part in row.parts), sizes)
            is_absent = row.or_zero and not instance.has(row)
            theirs = () if is_absent else self._names(row, instance, layer)
            named = tuple(instance.prefix + name for name in ours)
            yield Term(row=row, theirs=theirs, ours=named, form=form, is_absent=is_absent)

    def _names(self, row: Row, instance: Instance, layer: int | None) -> tuple[str, ...]:
        experts = range(self.architecture.sizes.get("experts", 0)) if EXPERT in row.theirs else (None,)
        own = instance.has(row)  # else the optimizer's alone
        return tuple(
            instance.name(name, layer, expert) if own else numbered(name, layer, expert)
            for expert in experts
            for name in row.names
        )

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        tie = self.architecture.family.tie
        shapes = expected_shapes(self.architecture)
        return shapes if tie is None else {tie.head: shapes[tie.embedding], **shapes}


def shapes_of_theirs(terms: Iterable[Term | Entries]) -> dict[str, Shape]:
    """Those of the trainer's tensors."""
    return {name: shape for one in terms for name, shape in zip(one.theirs, one.form.shapes_of_theirs, strict=True)}
