"""GPT-2: Conv1D weights stored (in, out), fused q, k, v, learned positions, a head tied to the embedding.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; transformers `GPT2LMHeadModel`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Refusal, Size, Tie
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, QUESTIONS, SEQUENCE, VALUES

FAMILY = Family(
    model_type="gpt2",
    base_prefix="transformer.",
    num_layers="n_layer",
    sizes={
        "vocab": Size(config="vocab_size"),
        "position": Size(config="n_positions"),
        "residual": Size(config="n_embd"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="n_head"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="n_inner", times=(4, "residual")),
    },
    parameters=(
        Parameter("transformer.wte.weight", "vocab -> residual"),
        Parameter("transformer.wpe.weight", "position -> residual"),
        Parameter("transformer.h.{layer}.ln_1.weight", "gain normed"),
        Parameter("transformer.h.{layer}.ln_1.bias", "normed"),
        Parameter("transformer.h.{layer}.attn.c_attn.weight", "normed -> (3! heads head)"),
        Parameter("transformer.h.{layer}.attn.c_attn.bias", "(3! heads head)"),
        Parameter("transformer.h.{layer}.attn.c_proj.weight", "(heads head) -> residual"),
        Parameter("transformer.h.{layer}.attn.c_proj.bias", "residual"),
        Parameter("transformer.h.{layer}.ln_2.weight", "gain normed"),
        Parameter("transformer.h.{layer}.ln_2.bias", "normed"),
        Parameter("transformer.h.{layer}.mlp.c_fc.weight", "normed -> ffn!"),
        Parameter("transformer.h.{layer}.mlp.c_fc.bias", "ffn!"),
        Parameter("transformer.h.{layer}.mlp.c_proj.weight", "ffn -> residual"),
        Parameter("transformer.h.{layer}.mlp.c_proj.bias", "residual"),
        Parameter("transformer.ln_f.weight", "gain final"),
        Parameter("transformer.ln_f.bias", "final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="transformer.wte.weight"),
    buffers=("transformer.h.{layer}.attn.bias", "transformer.h.{layer}.attn.masked_bias"),
    padding=Padding("layer", "layer_norm_epsilon"),
    activation="activation_function",
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    refusals=(Refusal("depth", "attention is scaled by the layer's index", when="scale_attn_by_inverse_layer_idx"),),
    original_sizes={
        "GPT2_base": {"n_layer": 12, "n_embd": 768, "n_head": 8},
        "GPT2_base_div2_width": {"n_layer": 12, "n_embd": 384, "n_head": 4},
        "GPT2_base_div2_depth": {"n_layer": 6, "n_embd": 768, "n_head": 8},
        "GPT2_large": {"n_layer": 24, "n_embd": 1536, "n_head": 16},
        "GPT2_large_div2_width": {"n_layer": 24, "n_embd": 768, "n_head": 8},
        "GPT2_large_div2_depth": {"n_layer": 12, "n_embd": 1536, "n_head": 16},
        "GPT2_large_div4_width": {"n_layer": 24, "n_embd": 384, "n_head": 4},
        "GPT2_large_div4_depth": {"n_layer": 6, "n_embd": 1536, "n_head": 16},
    },
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, QUESTIONS, VALUES),
)
