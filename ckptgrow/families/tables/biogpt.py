"""BioGPT: learned positions that begin at 2, and embeddings times √hidden where the config says so.

Source: Luo et al., "BioGPT", arXiv 2210.10341; transformers `BioGptForCausalLM`.
"""

from ckptgrow.families.family import Family, Parameter, Refusal, Size, TaskHead, Tie
from ckptgrow.families.task_rows import CLASSIFIED_TOKENS
from ckptgrow.families.translation_rows import attention, feed_forward, norm

LAYER = "biogpt.layers.{layer}."
SCALED, UNSCALED = "scale_embedding", "not scale_embedding"
ENDS = (("final", SCALED), ("plain_final", UNSCALED))  # the final norm's space: a tied head's share of 1/k differs


def _rows(name: str, layout: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name, layout.format(space), when=condition) for space, condition in ENDS)


FAMILY = Family(
    model_type="biogpt",
    base_prefix="biogpt.",
    num_layers="num_hidden_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "position": Size(config="max_position_embeddings"),
        "residual": Size(config="hidden_size"),
        "embedded": Size(same="residual"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "plain_final": Size(same="residual"),
        "heads": Size(config="num_attention_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="intermediate_size"),
    },
    parameters=(
        Parameter("biogpt.embed_tokens.weight", "vocab -> embedded", when=SCALED),
        Parameter("biogpt.embed_tokens.weight", "vocab -> residual", when=UNSCALED),
        Parameter("biogpt.embed_positions.weight", "(2 + position) -> residual"),
        *attention(LAYER + "self_attn.", "heads", "normed", "residual"),
        *norm(LAYER + "self_attn_layer_norm", "normed"),
        *feed_forward(LAYER, "ffn", "normed", "residual"),
        *norm(LAYER + "final_layer_norm", "normed"),
        *_rows("biogpt.layer_norm.weight", "gain {}"),
        *_rows("biogpt.layer_norm.bias", "{}"),
        *_rows("output_projection.weight", "vocab <- {}"),
    ),
    tie=Tie(head="output_projection.weight", embedding="biogpt.embed_tokens.weight"),
    activation="hidden_act",
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout", "layerdrop"),
    residual=("residual", "embedded", "normed", "final", "plain_final"),
    shrunken={"embedded": 0.5},
    shrunken_tied={"embedded": 0.5, "final": 0.5, "plain_final": 1.0},
    refusals=(Refusal("hidden", "its config has no field for the norms' ε; ⟦factor K⟧ multiplies the hidden size"),),
    tasks=(
        TaskHead(
            classes=("ForSequenceClassification",), head="sequence", parameters=_rows("score.weight", "labels <- {}")
        ),
        TaskHead(
            classes=("ForTokenClassification",),
            head="tokens",
            parameters=(*_rows("classifier.weight", "labels <- {}"), CLASSIFIED_TOKENS.parameters[1]),
        ),
    ),
)
