"""A state in transformers' terms as another trainer would have written it.

What the trainer has no place for is refused where the function or the training would be another one without it, and
told where it belongs to the run alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from ckptgrow.dialects.dialect import LAYER, ConfigMap, Dialect, Home
from ckptgrow.dialects.known_dialects import DIALECTS
from ckptgrow.errors import RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.cover import Cover, Instance, names_in_module_order
from ckptgrow.state.terms import Terms
from ckptgrow.state.trainer_config import as_transformers, in_trainers_words
from ckptgrow.state.trainers_groups import in_trainers_groups
from ckptgrow.state.trainers_homes import at_home
from ckptgrow.state.translated_tensors import in_trainers_forms
from ckptgrow.storage.tensors import is_lazy, whole
from ckptgrow.storage.tree import node_at, with_node

Config = Mapping[str, Any]
# fields of transformers' configs that do not change what a model computes, or that say the same again
IDLE = {
    *("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "name_or_path", "use_cache"),
    *("initializer_range", "rope_theta", "partial_rotary_factor", "output_attentions", "output_hidden_states"),
    *("return_dict", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "pretraining_tp"),
    *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"),
    *("max_position_embeddings", "is_encoder_decoder", "attn_implementation", "_attn_implementation"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "hidden_activation", "_attn_implementation_internal"),
    *("experts_implementation", "_sliding_window_pattern"),
}
UNUSED_WINDOWS = {"use_sliding_window", "sliding_window", "max_window_layers"}  # where no layer has a window


def dialect_for(trainer: str, architecture: Architecture) -> Dialect:
    """A trainer's dialect of an architecture's family; raises RequestError where it has none."""
    own = [one for one in DIALECTS.values() if one.home is not None and one.trainer.lower() == trainer]
    family = architecture.family.model_type
    fitting = [one for one in own if family in one.model_types]
    if not fitting:
        known = sorted({name for one in own for name in one.model_types})
        raise RequestError(f"{architecture.where}: is a {family}, expected {listing(known, 9)} for ⟦to {trainer}⟧")
    full = _full(architecture, architecture.config)
    fitting = [one for one in fitting if all(full.get(name) in said for name, said in one.demands.items())] or fitting
    heads = ("either", "embedding" if architecture.is_tied else "own")
    return next((one for one in fitting if one.home and one.home.head in heads), fitting[0])


def in_dialect(checkpoint: Checkpoint, architecture: Architecture, dialect: Dialect) -> tuple[Checkpoint, list[str]]:
    """A checkpoint with transformers' own names as the trainer's, and what the trainer has no place for.

    Raises RequestError where the trainer's config cannot say the model, or it has no tensor for one of the model's.
    """
    home = dialect.home
    assert home is not None
    architecture = architecture.with_config({**_rotary_fields(architecture.config), **architecture.config})
    with_head = _with_head(checkpoint, architecture, dialect, home)
    terms = _terms(dialect, architecture, with_head)
    tensors = in_trainers_forms(terms, with_head)
    cover = terms.cover
    order = names_in_module_order(dialect.rows, cover.num_layers, cover.num_experts)
    own = {name: tensors[name] for name in order if name in tensors}
    optimizers, left_out = in_trainers_groups(checkpoint, terms, home, own)
    if not home.step and checkpoint.position.global_step is not None:
        left_out.append(f"step {checkpoint.position.global_step}")
    if home.kind != "dcp" or not home.step:
        left_out += [f"scheduler {index}" for index in range(len(checkpoint.schedulers))]
    left_out += [home.lacks] if home.lacks and optimizers else []
    has_transformers_config = home.kind == "torch-files" and dialect.config is None
    config = architecture.config if has_transformers_config else None
    kept = replace(checkpoint, tensors=own, optimizers=optimizers, config=config)
    return at_home(kept, dialect, home, _config(dialect, architecture, terms)), left_out


def _rotary_fields(config: Config) -> dict[str, Any]:
    """What newer configs of transformers keep among the parameters of rotary positions."""
    rotary: Any = config.get("rope_parameters") or {}
    if not isinstance(rotary, dict):
        return {}
    local: Any = rotary.get("sliding_attention")
    rotary = rotary.get("full_attention", rotary)
    apart = ("rope_theta", "partial_rotary_factor")
    fields: dict[str, Any] = {name: rotary[name] for name in apart if name in rotary}
    if rotary.get("rope_type", "default") != "default":
        fields["rope_scaling"] = {name: value for name, value in rotary.items() if name not in apart}
    return fields if local is None else {**fields, "rope_local_base_freq": local.get("rope_theta")}


def _with_head(checkpoint: Checkpoint, architecture: Architecture, dialect: Dialect, home: Home) -> Checkpoint:
    """With the head under its own name, where it is the embedding and the trainer stores it as well."""
    tie = architecture.family.tie
    if tie is None or not architecture.is_tied or tie.head in checkpoint.tensors:
        return checkpoint
    if all(part.name != tie.head for row in dialect.rows for part in row.parts):
        return checkpoint
    if home.head == "own" and checkpoint.optimizers:
        raise RequestError(
            f"{checkpoint.path}: its head is its embedding, expected two tensors with moments of their own, as this "
            "trainer has them; convert the weights alone"
        )
    return replace(checkpoint, tensors={**checkpoint.tensors, tie.head: checkpoint.tensors[tie.embedding]})


def _terms(dialect: Dialect, architecture: Architecture, checkpoint: Checkpoint) -> Terms:
    """The rows as this trainer spells them, without those of biases that never were."""
    absent = _lacks_biases(dialect, architecture.num_layers, checkpoint)
    spelling = {name: name for row in dialect.rows if not (absent and row.or_zero) for name in row.names}
    cover = Cover(dialect, (Instance(spelling),), architecture.num_layers, architecture.sizes.get("experts", 0))
    return Terms(cover, architecture, bool(dialect.optimizer_rows))


def _lacks_biases(dialect: Dialect, num_layers: int, checkpoint: Checkpoint) -> bool:
    """Whether what a trainer may lack is zero, and has been in all training, so that it was none of the model's."""
    patterns = [part.name for row in dialect.rows if row.or_zero for part in row.parts]
    names = [one.replace(LAYER, str(layer)) for one in patterns for layer in range(num_layers)]
    own = [name for name in dict.fromkeys(names) if name in checkpoint.tensors]
    if not own or not checkpoint.optimizers or any(bool(whole(checkpoint.tensors[name]).any()) for name in own):
        return False
    raw = checkpoint.optimizers[0]
    keys = {name: key for group in raw.groups for key, name in zip(group.keys, group.names or (), strict=True)}
    records = [raw.records.get(keys[name], {}) for name in own if name in keys]
    moments = [value for record in records for value in record.values() if is_lazy(value) and value.shape]
    return bool(moments) and not any(bool(whole(one).any()) for one in moments)


def _config(dialect: Dialect, architecture: Architecture, terms: Terms) -> dict[str, Any] | None:
    """The trainer's config; raises RequestError where it cannot say the model's."""
    config, given = dialect.config, architecture.config
    full = _full(architecture, given)
    for name, allowed in dialect.demands.items():
        if full.get(name) not in allowed:
            expected = listing(map(repr, allowed))
            raise RequestError(f"{architecture.where}: {name} is {full.get(name)!r}, expected {expected}")
    if config is None:
        return None
    fields: Any = {**config.contains}
    for name, allowed in config.expects.items():
        fields = with_node(fields, tuple(name.split(".")), allowed[0])
    said = {**full, **_rotary_fields(full), **given}
    inside = {ours for _, ours in config.fields if "." in ours}
    lacking = {ours.partition(".")[0] for ours in inside if node_at(said, tuple(ours.split("."))) is None}
    for theirs, ours in config.fields:
        if ours in inside and ours.partition(".")[0] in lacking:
            continue  # what is told by half is another's
        value = node_at(said, tuple(ours.split(".")))
        if value is not None or ours in said:
            fields = with_node(fields, tuple(theirs.split(".")), in_trainers_words(config, ours, value))
    if dialect.home is not None and dialect.home.biases:
        fields[dialect.home.biases] = not terms.absent
    _check_same(architecture, config, fields)
    return fields


def _full(architecture: Architecture, said: Config) -> dict[str, Any]:
    """A config with transformers' defaults for all that it does not say."""
    from transformers import AutoConfig

    # deep: transformers writes into what is inside
    given = deepcopy({key: value for key, value in said.items() if key not in ("model_type", "transformers_version")})
    found: dict[str, Any] = AutoConfig.for_model(architecture.family.model_type, **given).to_dict()
    return found


def _check_same(architecture: Architecture, config: ConfigMap, fields: Config) -> None:
    """Raises RequestError where the trainer's config, read as transformers', is another model's."""
    tie = architecture.family.tie
    tied = {} if tie is None else {tie.config: architecture.is_tied}
    before = _full(architecture, architecture.config)
    after = _full(architecture, {**as_transformers(config, fields), **tied})
    idle = IDLE if "sliding_attention" in (before.get("layer_types") or ()) else IDLE | UNUSED_WINDOWS
    lost = [name for name in sorted(before.keys() & after.keys() - idle) if before[name] != after[name]]
    if lost:
        said = listing(f"{name} {before[name]!r}" for name in lost)
        raise RequestError(f"{architecture.where}: the trainer's config cannot say {said}")
