"""torchtune: Meta's names, rotary positions in pairs but for Qwen; its config is in the user's YAML, and transformers'
`config.json`, with which a fine-tuning begins, lies beside the weights.

Its FullModelHFCheckpointer writes the weights in transformers' names and forms, and the optimizer in its own: that is
the `-hf` dialect, of directories with a `recipe_state.pt`. Its Gemma 2 caps what the last norm gives instead of the
logits: another function than transformers', so that it has no dialect.

Source: torchtune 0.6.1 and its main branch of 2026-04, `models/*/_component_builders.py`, `models/convert_weights.py`,
`models/*/_convert_weights.py` and `training/checkpointing`.
"""

from dataclasses import replace

from ckptgrow.dialects.dialect import Dialect, Home, Row

THEIR, OUR = "layers.{layer}.", "model.layers.{layer}."
RECIPE = "recipe_state.pt"
PAIRED = {"q": "rotary heads: ", "k": "rotary kv_heads: ", "v": ""}
HALVES = dict.fromkeys("qkv", "")
HEAD_NORMS = (
    Row(THEIR + "attn.q_norm.scale", OUR + "self_attn.q_norm.weight"),
    Row(THEIR + "attn.k_norm.scale", OUR + "self_attn.k_norm.weight"),
)
HEAD = Row("output.weight", "lm_head.weight")
WEIGHTS = "model-00001-of-00001.bin"


def _rows(steps: dict[str, str], *in_attention: Row, ends: tuple[str, ...] = ("weight",)) -> tuple[Row, ...]:
    """A family's rows but for the head; `steps` are those of queries, keys and values, `ends` their tensors."""
    return (
        Row("tok_embeddings.weight", "model.embed_tokens.weight"),
        *(
            Row(f"{THEIR}attn.{letter}_proj.{end}", f"{how}{OUR}self_attn.{letter}_proj.{end}")
            for letter, how in steps.items()
            for end in ends
        ),
        Row(THEIR + "attn.output_proj.weight", OUR + "self_attn.o_proj.weight"),
        *in_attention,
        Row(THEIR + "mlp.w1.weight", OUR + "mlp.gate_proj.weight"),
        Row(THEIR + "mlp.w2.weight", OUR + "mlp.down_proj.weight"),
        Row(THEIR + "mlp.w3.weight", OUR + "mlp.up_proj.weight"),
        Row(THEIR + "sa_norm.scale", OUR + "input_layernorm.weight"),
        Row(THEIR + "mlp_norm.scale", OUR + "post_attention_layernorm.weight"),
        Row("norm.scale", "model.norm.weight"),
    )


def _dialects(name: str, rows: tuple[Row, ...], heads: tuple[bool, ...], *model_types: str) -> list[Dialect]:
    """A family's dialects, with a head of its own or not, as the weights are torchtune's or transformers'."""
    found: list[Dialect] = []
    for has_head in heads:
        own = Dialect(
            name=f"torchtune-{name}" if has_head or len(heads) == 1 else f"torchtune-{name}-tied",
            trainer="torchtune",
            model_types=model_types,
            rows=(*rows, HEAD) if has_head else rows,
            home=Home(
                kind="torch-files",
                model=(WEIGHTS,),
                optimizer=(RECIPE, "optimizer"),
                step=(RECIPE, "steps_run"),
                groups="one",
                others={RECIPE: {"seed": 0, "epochs_run": 0, "total_epochs": 1, "max_steps_per_epoch": None}},
                head="own" if has_head else "embedding",
            ),
        )
        parts = [row.parts[0].name for row in own.rows]
        in_files = tuple(Row(part, part) for part in parts)
        found += [
            own,
            replace(own, name=f"{own.name}-hf", rows=in_files, optimizer_rows=own.rows, home=None, kind="torchtune"),
        ]
    return found


UNTIED, TIED = True, False
DIALECTS = (
    *_dialects("llama", _rows(PAIRED), (UNTIED, TIED), "llama", "mistral"),
    *_dialects("qwen2", _rows(HALVES, ends=("weight", "bias")), (UNTIED, TIED), "qwen2"),
    *_dialects("qwen3", _rows(HALVES, *HEAD_NORMS), (UNTIED, TIED), "qwen3"),
    *_dialects("gemma", _rows(PAIRED), (TIED,), "gemma"),
)
