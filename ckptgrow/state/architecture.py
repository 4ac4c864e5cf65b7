"""A model's architecture: the family's table, and the config that fills it in."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ckptgrow.errors import ConfigError, at
from ckptgrow.families.family import Family
from ckptgrow.state.sizes import holds, is_tied, num_layers, sizes_of, stack_layers


@dataclass(frozen=True, eq=False)
class Architecture:
    """A family, and a config with all fields that the family's table reads; `where` is its place, for messages."""

    family: Family
    config: Mapping[str, Any]
    where: str

    def with_config(self, config: Mapping[str, Any]) -> Architecture:
        """The architecture of the same family with another config."""
        return replace(self, config=config)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The size of every space of the table.

        Raises ConfigError where a field is missing or no whole number above zero.
        """
        with at(self.where):
            return sizes_of(self.family, self.config)

    @property
    def own_sizes(self) -> dict[str, int]:
        """The number of layers, and the size of every space but those that no field of the config says."""
        sizes = self.family.sizes
        own = {name: size for name, size in self.sizes.items() if sizes[name].same is None or sizes[name].config}
        return {"layers": self.num_layers, **own}

    @property
    def num_layers(self) -> int:
        """The number of layers, of the deepest stack where there are several; raises ConfigError as `sizes` does."""
        with at(self.where):
            return num_layers(self.family, self.config)

    def stack_layers(self, name: str) -> int:
        """The number of layers in the stack that a parameter of the table stands in."""
        with at(self.where):
            return stack_layers(self.family, self.config, name)

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding's tensor."""
        return is_tied(self.family, self.config)

    def holds(self, condition: str | None) -> bool:
        """Whether a table's condition holds here."""
        return holds(condition, self.config)

    def check_accepted(self) -> None:
        """Raises ConfigError where transformers would not build a model from this config."""
        from transformers import AutoConfig

        # deep: transformers writes into what is inside
        fields = deepcopy({key: value for key, value in self.config.items() if key != "model_type"})
        try:
            AutoConfig.for_model(str(self.config["model_type"]), **fields)
        except config_errors() as error:
            reason = str(error).splitlines()[-1].strip()
            raise ConfigError(
                f"{self.where}: transformers refuses the grown config ({reason}); choose other sizes"
            ) from error


def config_errors() -> tuple[type[Exception], ...]:
    """The errors that transformers raises for configs that it refuses, including the one of its strict fields."""
    import huggingface_hub.errors

    return TypeError, ValueError, getattr(huggingface_hub.errors, "StrictDataclassError", ValueError)
