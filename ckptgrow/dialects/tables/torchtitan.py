"""torchtitan: Meta's names, Llama's rotary positions in pairs; its config is in the user's Python, none on the disk.

With `fuse_qkv`, its default since 0.3, the model's state dict has q, k and v apart, and the optimizer has them as one
tensor by key and value head.

Source: torchtitan 0.3.0, `models/llama3`, `models/qwen3`, `models/common/attention.py` and the state-dict adapters.
"""

from dataclasses import replace

from ckptgrow.dialects.dialect import Dialect, Home, Row

THEIR, OUR = "layers.{layer}.", "model.layers.{layer}."
Q, K, V = (f"{OUR}self_attn.{letter}_proj.weight" for letter in "qkv")
PAIRED = (f"rotary heads: {Q}", f"rotary kv_heads: {K}", V)


def _layer(attention: tuple[str, str, str], projections: tuple[str, str, str]) -> tuple[Row, ...]:
    return (
        Row("tok_embeddings.weight", "model.embed_tokens.weight"),
        *(Row(THEIR + theirs, ours) for theirs, ours in zip(attention, projections, strict=True)),
        Row(THEIR + "attention.wo.weight", OUR + "self_attn.o_proj.weight"),
        Row(THEIR + "feed_forward.w1.weight", OUR + "mlp.gate_proj.weight"),
        Row(THEIR + "feed_forward.w2.weight", OUR + "mlp.down_proj.weight"),
        Row(THEIR + "feed_forward.w3.weight", OUR + "mlp.up_proj.weight"),
        Row(THEIR + "attention_norm.weight", OUR + "input_layernorm.weight"),
        Row(THEIR + "ffn_norm.weight", OUR + "post_attention_layernorm.weight"),
        Row("norm.weight", "model.norm.weight"),
    )


NEW = ("attention.qkv_linear.wq.weight", "attention.qkv_linear.wk.weight", "attention.qkv_linear.wv.weight")
OLD = ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight")
FUSED = Row(THEIR + "attention.qkv_linear.wqkv.weight", *PAIRED, how="group")

LLAMA3 = Dialect(
    name="torchtitan-llama3",
    trainer="torchtitan",
    model_types=("llama",),
    rows=(*_layer(NEW, PAIRED), Row("lm_head.weight", "lm_head.weight")),
    optimizer_rows=(FUSED,),
    home=Home(
        kind="dcp",
        model=(),
        optimizer=("optimizer",),
        step=("train_state", "step"),
        groups="names",
        optimizers=("Adam", "AdamW"),
        others={"train_state": {"ntokens_seen": 0}},
    ),
    demands={"hidden_act": ("silu",)},
)
HEAD_NORMS = (
    Row(THEIR + "attention.q_norm.weight", OUR + "self_attn.q_norm.weight"),
    Row(THEIR + "attention.k_norm.weight", OUR + "self_attn.k_norm.weight"),
)
QWEN3 = replace(  # its rotary positions turn halves, as transformers' do
    LLAMA3,
    name="torchtitan-qwen3",
    model_types=("qwen3",),
    rows=(*_layer(NEW, (Q, K, V)), *HEAD_NORMS, Row("lm_head.weight", "lm_head.weight")),
    optimizer_rows=(Row(FUSED.theirs, Q, K, V, how="group"),),
)

DIALECTS = (
    LLAMA3,
    QWEN3,
    Dialect(
        name="torchtitan-llama3-old",
        trainer="torchtitan",
        model_types=("llama",),
        rows=(*_layer(OLD, PAIRED), Row("output.weight", "lm_head.weight")),
    ),
)
