"""GPT-NeoX and Pythia: queries, keys and values interleaved by head, attention and feed-forward side by side.

Source: Black et al., "GPT-NeoX-20B", arXiv 2204.06745; transformers `GPTNeoXForCausalLM`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size, Tie
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, QUESTIONS, SEQUENCE, VALUES

FAMILY = Family(
    model_type="gpt_neox",
    base_prefix="gpt_neox.",
    num_layers="num_hidden_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="num_attention_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="intermediate_size"),
    },
    parameters=(
        Parameter("gpt_neox.embed_in.weight", "vocab -> residual"),
        Parameter("gpt_neox.layers.{layer}.input_layernorm.weight", "gain normed"),
        Parameter("gpt_neox.layers.{layer}.input_layernorm.bias", "normed"),
        Parameter("gpt_neox.layers.{layer}.post_attention_layernorm.weight", "gain normed"),
        Parameter("gpt_neox.layers.{layer}.post_attention_layernorm.bias", "normed"),
        Parameter("gpt_neox.layers.{layer}.attention.query_key_value.weight", "(heads 3! head) <- normed"),
        Parameter("gpt_neox.layers.{layer}.attention.query_key_value.bias", "(heads 3! head)", when="attention_bias"),
        Parameter("gpt_neox.layers.{layer}.attention.dense.weight", "residual <- (heads head)"),
        Parameter("gpt_neox.layers.{layer}.attention.dense.bias", "residual", when="attention_bias"),
        Parameter("gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight", "ffn! <- normed"),
        Parameter("gpt_neox.layers.{layer}.mlp.dense_h_to_4h.bias", "ffn!"),
        Parameter("gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight", "residual <- ffn"),
        Parameter("gpt_neox.layers.{layer}.mlp.dense_4h_to_h.bias", "residual"),
        Parameter("gpt_neox.final_layer_norm.weight", "gain final"),
        Parameter("gpt_neox.final_layer_norm.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="gpt_neox.embed_in.weight", default=False),
    spellings=(("lm_head.weight", "embed_out.weight"),),
    buffers=(
        "gpt_neox.layers.{layer}.attention.bias",
        "gpt_neox.layers.{layer}.attention.masked_bias",
        "gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq",
    ),
    padding=Padding("layer", "layer_norm_eps"),
    activation="hidden_act",
    dropout=("hidden_dropout", "attention_dropout"),
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, QUESTIONS, VALUES),
)
