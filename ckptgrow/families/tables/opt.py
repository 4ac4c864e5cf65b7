"""OPT: learned positions that begin at 2, ReLU, embeddings that may be narrower than the hidden size.

Norms stand before the blocks and at the end, or after each block and not at the end (opt-350m).

Source: Zhang et al., "OPT", arXiv 2205.01068; transformers `OPTForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, Parameter, Refusal, Size, TaskHead, Tie
from ckptgrow.families.rows import OF_SHARED_EPS

LAYER = "model.decoder.layers.{layer}."
AFFINE = "layer_norm_elementwise_affine"
UNPROJECTED, PROJECTED = "word_embed_proj_dim == hidden_size", "word_embed_proj_dim != hidden_size"
FINAL_NORM = f"{AFFINE} and do_layer_norm_before and not _remove_final_layer_norm"
POST_NORM = "not do_layer_norm_before"
NO_GAIN = "its head is tied to the embedding, and no gain that could make up for the copies stands before it"


def _rows(name: str, layout: str) -> tuple[Parameter, ...]:
    """A head's rows: behind the projection to another size where there is one."""
    spaces = {"final": UNPROJECTED, "projected": PROJECTED}
    return tuple(Parameter(name, layout.format(space), when=when) for space, when in spaces.items())


FAMILY = Family(
    model_type="opt",
    base_prefix="model.",
    num_layers="num_hidden_layers",
    sizes={
        "vocab": Size(config="vocab_size"),
        "position": Size(config="max_position_embeddings"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "embedded": Size(config="word_embed_proj_dim", same="residual"),
        "projected": Size(same="embedded"),
        "heads": Size(config="num_attention_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="ffn_dim"),
    },
    parameters=(
        Parameter("model.decoder.embed_tokens.weight", "vocab -> residual", when=UNPROJECTED),
        Parameter("model.decoder.embed_tokens.weight", "vocab -> embedded", when=PROJECTED),
        Parameter("model.decoder.embed_positions.weight", "(2 + position) -> residual"),
        Parameter("model.decoder.project_out.weight", "projected <- normed", when=PROJECTED),
        Parameter("model.decoder.project_in.weight", "residual <- embedded", when=PROJECTED),
        *(
            row
            for space, condition in (("final", UNPROJECTED), ("normed", PROJECTED))
            for row in (
                Parameter("model.decoder.final_layer_norm.weight", f"gain {space}", f"{condition} and {FINAL_NORM}"),
                Parameter("model.decoder.final_layer_norm.bias", space, f"{condition} and {FINAL_NORM}"),
            )
        ),
        Parameter(LAYER + "self_attn.k_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "self_attn.k_proj.bias", "(heads head)", when="enable_bias"),
        Parameter(LAYER + "self_attn.v_proj.weight", "(heads! head) <- normed"),
        Parameter(LAYER + "self_attn.v_proj.bias", "(heads! head)", when="enable_bias"),
        Parameter(LAYER + "self_attn.q_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "self_attn.q_proj.bias", "(heads head)", when="enable_bias"),
        Parameter(LAYER + "self_attn.out_proj.weight", "residual <- (heads head)"),
        Parameter(LAYER + "self_attn.out_proj.bias", "residual", when="enable_bias"),
        Parameter(
            LAYER + "self_attn_layer_norm.weight",
            "gain normed",
            when=AFFINE,
        ),
        Parameter(LAYER + "self_attn_layer_norm.bias", "normed", when=AFFINE),
        Parameter(LAYER + "fc1.weight", "ffn! <- normed"),
        Parameter(LAYER + "fc1.bias", "ffn!", when="enable_bias"),
        Parameter(LAYER + "fc2.weight", "residual <- ffn"),
        Parameter(LAYER + "fc2.bias", "residual", when="enable_bias"),
        Parameter(LAYER + "final_layer_norm.weight", "gain normed", when=AFFINE),
        Parameter(LAYER + "final_layer_norm.bias", "normed", when=AFFINE),
        Parameter("lm_head.weight", "vocab <- final", when=UNPROJECTED),
        Parameter("lm_head.weight", "vocab <- projected", when=PROJECTED),
    ),
    tie=Tie(head="lm_head.weight", embedding="model.decoder.embed_tokens.weight"),
    activation="activation_function",
    dropout=("dropout", "attention_dropout"),
    residual=("residual", "normed", "final", "embedded", "projected"),
    shrunken_tied={"final": 1.0, "projected": 1.0},
    padding=replace(OF_SHARED_EPS, norm="layer"),  # which no field says
    refusals=(
        Refusal("hidden", "its norms have no gain that could make up for new coordinates", when=f"not {AFFINE}"),
        Refusal("hidden", "a norm stands after each block, so no new coordinate can stay the mean", when=POST_NORM),
        Refusal("hidden", "no norm stands before its head", when="_remove_final_layer_norm"),
        Refusal("zero-norm", "its norms have no gain that could be zero; use ⟦new zero-output⟧", when="not " + AFFINE),
        *(
            Refusal("width", NO_GAIN, when=f"tie_word_embeddings and {UNPROJECTED} and {lacking}")
            for lacking in (f"not {AFFINE}", "not do_layer_norm_before", "_remove_final_layer_norm")
        ),
        *(
            Refusal(
                new,
                "it normalises after each block; ⟦new copy⟧ stacks layers, which changes the function",
                when=POST_NORM,
            )
            for new in ("zero-output", "zero-norm", "ode")
        ),
    ),
    tasks=(
        TaskHead(
            classes=("ForSequenceClassification",), head="sequence", parameters=_rows("score.weight", "labels <- {}")
        ),
        TaskHead(
            classes=("ForQuestionAnswering",),
            head="questions",
            parameters=(*_rows("qa_outputs.weight", "2 <- {}"), Parameter("qa_outputs.bias", "2")),
        ),
        TaskHead(
            classes=("WithValueHead",),
            head="valued",
            parameters=(*_rows("v_head.summary.weight", "1 <- {}"), Parameter("v_head.summary.bias", "1")),
            keeps_head=True,
        ),
    ),
)
