"""LFM2 with experts behind its first layers, chosen by sigmoids and a bias that no gradient moves.

Source: Liquid AI, "LFM2 Technical Report", arXiv 2511.23404; transformers `Lfm2MoeForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Choice, InPieces, Parameter, Refusal, Sparse
from ckptgrow.families.rows import LAYER, OF_CHOICE, TIE, mixture_sizes
from ckptgrow.families.tables.lfm2 import FAMILY as LFM2

BLOCK, EXPERT = LAYER + "feed_forward.", LAYER + "feed_forward.experts.{expert}."
BLOCKS = (
    Parameter(BLOCK + "w1.weight", "dense_ffn <- normed", layers="dense"),
    Parameter(BLOCK + "w3.weight", "dense_ffn! <- normed", layers="dense"),
    Parameter(BLOCK + "w2.weight", "residual <- dense_ffn", layers="dense"),
    Parameter(BLOCK + "experts.gate_up_proj", "experts: (2! ffn) <- normed", layers="sparse"),
    Parameter(BLOCK + "experts.down_proj", "routed <: residual <- ffn", layers="sparse"),
    Parameter(BLOCK + "gate.weight", "experts <- normed", layers="sparse"),
)
FIRST = next(index for index, one in enumerate(LFM2.parameters) if "feed_forward" in one.name)

FAMILY = replace(
    LFM2,
    model_type="lfm2_moe",
    sizes={**mixture_sizes("num_experts"), "channels": LFM2.sizes["channels"], "taps": LFM2.sizes["taps"], **OF_CHOICE},
    parameters=(*LFM2.parameters[:FIRST], *BLOCKS, *LFM2.parameters[FIRST + 3 :]),
    pieces=(
        InPieces(
            BLOCK + "experts.gate_up_proj",
            (Parameter(EXPERT + "w1.weight", "ffn <- normed"), Parameter(EXPERT + "w3.weight", "ffn! <- normed")),
        ),
        InPieces(BLOCK + "experts.down_proj", (Parameter(EXPERT + "w2.weight", "residual <- ffn"),)),
    ),
    tie=replace(TIE, default=True),
    buffers=(BLOCK + "expert_bias",),
    sparse=Sparse(first="num_dense_layers"),
    rounding=None,
    aliases={"tie_embedding": "tie_word_embeddings"},
    choice=Choice(scores="sigmoid", normalised="norm_topk_prob", bias=BLOCK + "expert_bias"),
    refusals=(
        *LFM2.refusals,
        Refusal(
            "experts",
            "the weights of a token's experts are divided by their sum and 1e-6, which is less beside the sum over "
            "copies; width grows them",
            when="norm_topk_prob",
        ),
    ),
)
