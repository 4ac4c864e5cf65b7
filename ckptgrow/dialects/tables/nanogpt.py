"""nanoGPT: GPT-2's names, its matrices as `nn.Linear` has them (out, in), exact GELU, biases or none.

Source: Karpathy, nanoGPT, `model.py` and `train.py`.
"""

from ckptgrow.dialects.dialect import ConfigMap, Dialect, Home, Row

H = "transformer.h.{layer}."


def _linear(name: str) -> tuple[Row, Row]:
    return (
        Row(f"{name}.weight", f"{name}.weight", how="transpose"),
        Row(f"{name}.bias", f"{name}.bias", or_zero=True),
    )


def _norm(name: str) -> tuple[Row, Row]:
    return Row(f"{name}.weight", f"{name}.weight"), Row(f"{name}.bias", f"{name}.bias", or_zero=True)


DIALECTS = (
    Dialect(
        name="nanogpt",
        trainer="nanoGPT",
        model_types=("gpt2",),
        rows=(
            Row("transformer.wte.weight", "transformer.wte.weight"),
            Row("transformer.wpe.weight", "transformer.wpe.weight"),
            *_norm(H + "ln_1"),
            *_linear(H + "attn.c_attn"),
            *_linear(H + "attn.c_proj"),
            *_norm(H + "ln_2"),
            *_linear(H + "mlp.c_fc"),
            *_linear(H + "mlp.c_proj"),
            *_norm("transformer.ln_f"),
            Row("lm_head.weight", "lm_head.weight"),
        ),
        config=ConfigMap(
            at=("model_args",),
            fields=(
                ("n_layer", "n_layer"),
                ("n_head", "n_head"),
                ("n_embd", "n_embd"),
                ("block_size", "n_positions"),
                ("vocab_size", "vocab_size"),
                ("dropout", "resid_pdrop"),
                ("dropout", "embd_pdrop"),
                ("dropout", "attn_pdrop"),
            ),
            constants={
                "model_type": "gpt2",
                "architectures": ["GPT2LMHeadModel"],
                "activation_function": "gelu",
                "layer_norm_epsilon": 1e-5,
                "n_inner": None,
                "scale_attn_by_inverse_layer_idx": False,
                "tie_word_embeddings": True,
                "bos_token_id": None,
                "eos_token_id": None,
            },
            also=(("config",),),
        ),
        home=Home(
            kind="torch",
            model=("model",),
            optimizer=("optimizer",),
            step=("iter_num",),
            groups="matrices, vectors",
            others={"best_val_loss": 1e9, "config": {}},  # as its train.py begins
            biases="bias",
            head="embedding",
            optimizers=("AdamW",),
        ),
    ),
)
