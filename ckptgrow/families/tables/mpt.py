"""MPT: ALiBi instead of positions; no biases; queries, keys and values in one tensor.

Source: MosaicML NLP Team, "Introducing MPT-7B", 2023; Press et al., "Train Short, Test Long" (ALiBi), arXiv 2108.12409;
transformers `MptForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, Tie
from ckptgrow.families.rows import ALIBI
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS, QUESTIONS, SEQUENCE, VALUES

LAYER = "transformer.blocks.{layer}."

FAMILY = Family(
    model_type="mpt",
    base_prefix="transformer.",
    num_layers="n_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "residual": Size(config="d_model"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="n_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(times=(4, "residual")),
    },
    parameters=(
        Parameter("transformer.wte.weight", "vocab -> residual"),
        Parameter(LAYER + "norm_1.weight", "gain normed"),
        Parameter(LAYER + "attn.Wqkv.weight", "(3! heads head) <- normed"),
        Parameter(LAYER + "attn.out_proj.weight", "residual <- (heads head)"),
        Parameter(LAYER + "norm_2.weight", "gain normed"),
        Parameter(LAYER + "ffn.up_proj.weight", "ffn! <- normed"),
        Parameter(LAYER + "ffn.down_proj.weight", "residual <- ffn"),
        Parameter("transformer.norm_f.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    tie=Tie(head="lm_head.weight", embedding="transformer.wte.weight"),
    dropout=("resid_pdrop", "emb_pdrop"),
    aliases={"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers"},
    longest="max_seq_len",
    refusals=(
        Refusal("hidden", "a larger hidden size means more or larger heads; ALiBi and their scale forbid both"),
        *ALIBI,
        Refusal("ffn", "transformers builds its feed-forward block with 4 × d_model units, whatever the config says"),
    ),
    tasks=(SEQUENCE, CLASSIFIED_TOKENS, QUESTIONS, VALUES),
)
