"""Nemotron-H: layers of one part each: Mamba-2's states, attention, a feed-forward block, or experts chosen by a bias.

A config lists the layers' parts; its older fields for them, a pattern of letters and a number, say the same again.

Source: NVIDIA, "Nemotron-H", arXiv 2504.03624; "Nemotron 3 Nano", arXiv 2512.20848; transformers
`NemotronHForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.family import Family, InPieces, Parameter, Size
from ckptgrow.families.mamba_rows import UNITS, mixer, state_sizes
from ckptgrow.families.rows import ATTENTION, CHOSEN_BY_BIAS, OF_CHOICE, OF_SHARED_EPS, SIZES
from ckptgrow.families.task_rows import VALUES

LAYER = "model.layers.{layer}."
MIXER = LAYER + "mixer."
KINDS = "layers_block_type"
EXPERT = MIXER + "experts.{expert}."


def _block(module: str, units: str, kind: str) -> tuple[Parameter, ...]:
    return (
        Parameter(module + "up_proj.weight", f"{units}! <- normed", layers=kind),
        Parameter(module + "up_proj.bias", f"{units}!", when="mlp_bias", layers=kind),
        Parameter(module + "down_proj.weight", f"residual <- {units}", layers=kind),
        Parameter(module + "down_proj.bias", "residual", when="mlp_bias", layers=kind),
    )


MIXTURE = f"{KINDS} == moe"
LATENT = "moe_latent_size"
EXPERTS = (
    *(
        Parameter(MIXER + name, layout, when=condition, layers=MIXTURE)
        for condition, read, written in ((f"not {LATENT}", "normed", "residual"), (LATENT, "latent", "summed"))
        for name, layout in (
            ("experts.up_proj", f"experts: ffn! <- {read}"),
            ("experts.down_proj", f"routed <: {written} <- ffn"),
        )
    ),
    Parameter(MIXER + "gate.weight", "experts <- normed", layers=MIXTURE),
    *_block(MIXER + "shared_experts.", "shared_ffn", MIXTURE),
    Parameter(MIXER + "fc1_latent_proj.weight", "latent <- normed", when=LATENT, layers=MIXTURE),
    Parameter(MIXER + "fc1_latent_proj.bias", "latent", when=f"{LATENT} and mlp_bias", layers=MIXTURE),
    Parameter(MIXER + "fc2_latent_proj.weight", "residual <- summed", when=LATENT, layers=MIXTURE),
    Parameter(MIXER + "fc2_latent_proj.bias", "residual", when=f"{LATENT} and mlp_bias", layers=MIXTURE),
)

FAMILY = Family(
    model_type="nemotron_h",
    base_prefix="model.",
    num_layers=KINDS,
    sizes={
        **SIZES,
        "ffn": Size(config="moe_intermediate_size"),
        "dense_ffn": Size(config="intermediate_size"),
        "shared_ffn": Size(config="moe_shared_expert_intermediate_size"),
        "experts": Size(config="n_routed_experts"),
        "routed": Size(same="experts"),
        **OF_CHOICE,
        "latent": Size(config=LATENT, is_optional=True),
        "summed": Size(same="latent"),
        **state_sizes(
            heads="mamba_num_heads",
            head="mamba_head_dim",
            groups="n_groups",
            state="ssm_state_size",
            taps="conv_kernel",
        ),
    },
    parameters=(
        Parameter("model.embeddings.weight", "vocab -> residual"),
        Parameter(LAYER + "norm.weight", "gain normed"),
        *mixer(MIXER, bias="use_bias", conv_bias="use_conv_bias", layers=f"{KINDS} == linear_attention or mamba"),
        *(
            replace(one, name=one.name.replace("self_attn", "mixer"), layers=f"{KINDS} == full_attention or attention")
            for one in ATTENTION
        ),
        *_block(MIXER, "dense_ffn", f"{KINDS} == mlp"),
        *EXPERTS,
        Parameter("model.norm_f.weight", "gain final"),
        Parameter("lm_head.weight", "vocab <- final"),
    ),
    pieces=tuple(
        InPieces(MIXER + f"experts.{name}", (Parameter(EXPERT + f"{name}.weight", layout),))
        for name, layout in (("up_proj", "ffn! <- normed"), ("down_proj", "residual <- ffn"))
    ),
    spellings=(("model.", "backbone."),),
    buffers=(MIXER + "gate.e_score_correction_bias",),
    padding=OF_SHARED_EPS,
    activation="mlp_hidden_act",
    dropout=("attention_dropout", "hidden_dropout"),
    units=("heads", "kv_heads", "ffn", "dense_ffn", "shared_ffn", *UNITS),
    layer_lists=(KINDS,),
    restated=("num_hidden_layers", "hybrid_override_pattern"),
    aliases={
        "layer_types": KINDS,
        "num_local_experts": "n_routed_experts",
        "mamba_n_groups": "n_groups",
        "mamba_d_conv": "conv_kernel",
    },
    choice=replace(CHOSEN_BY_BIAS, bias=MIXER + "gate.e_score_correction_bias"),
    tasks=(VALUES,),
)
