"""ViT: an encoder of image patches behind a class token, with the head of its image classifier.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929; transformers `ViTForImageClassification`.
"""

from ckptgrow.families.family import Family, Padding, Parameter, Size

LAYER = "vit.layers.{layer}."

FAMILY = Family(
    model_type="vit",
    base_prefix="vit.",
    num_layers="num_hidden_layers",
    head="image",
    sizes={
        "labels": Size(config="id2label"),
        "image": Size(config="image_size"),
        "patch": Size(config="patch_size"),
        "patches": Size(squared_ratio=("image", "patch")),
        "channels": Size(config="num_channels"),
        "residual": Size(config="hidden_size"),
        "normed": Size(same="residual"),
        "final": Size(same="residual"),
        "heads": Size(config="num_attention_heads"),
        "head": Size(ratio=("residual", "heads")),
        "ffn": Size(config="intermediate_size"),
    },
    parameters=(
        Parameter("vit.embeddings.cls_token", "1 1: residual"),
        Parameter("vit.embeddings.position_embeddings", "1 (1 + patches): residual"),
        Parameter("vit.embeddings.patch_embeddings.projection.weight", "residual <- channels patch patch"),
        Parameter("vit.embeddings.patch_embeddings.projection.bias", "residual"),
        Parameter(LAYER + "attention.q_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "attention.q_proj.bias", "(heads head)", when="qkv_bias"),
        Parameter(LAYER + "attention.k_proj.weight", "(heads head) <- normed"),
        Parameter(LAYER + "attention.k_proj.bias", "(heads head)", when="qkv_bias"),
        Parameter(LAYER + "attention.v_proj.weight", "(heads! head) <- normed"),
        Parameter(LAYER + "attention.v_proj.bias", "(heads! head)", when="qkv_bias"),
        Parameter(LAYER + "attention.o_proj.weight", "residual <- (heads head)"),
        Parameter(LAYER + "attention.o_proj.bias", "residual"),
        Parameter(LAYER + "layernorm_before.weight", "gain normed"),
        Parameter(LAYER + "layernorm_before.bias", "normed"),
        Parameter(LAYER + "layernorm_after.weight", "gain normed"),
        Parameter(LAYER + "layernorm_after.bias", "normed"),
        Parameter(LAYER + "mlp.fc1.weight", "ffn! <- normed"),
        Parameter(LAYER + "mlp.fc1.bias", "ffn!"),
        Parameter(LAYER + "mlp.fc2.weight", "residual <- ffn"),
        Parameter(LAYER + "mlp.fc2.bias", "residual"),
        Parameter("vit.layernorm.weight", "gain final"),
        Parameter("vit.layernorm.bias", "final"),
        Parameter("classifier.weight", "labels <- final"),
        Parameter("classifier.bias", "labels"),
    ),
    spellings=(
        ("vit.layers.{layer}.attention.q_proj.", "vit.encoder.layer.{layer}.attention.attention.query."),
        ("vit.layers.{layer}.attention.k_proj.", "vit.encoder.layer.{layer}.attention.attention.key."),
        ("vit.layers.{layer}.attention.v_proj.", "vit.encoder.layer.{layer}.attention.attention.value."),
        ("vit.layers.{layer}.attention.o_proj.", "vit.encoder.layer.{layer}.attention.output.dense."),
        ("vit.layers.{layer}.layernorm_", "vit.encoder.layer.{layer}.layernorm_"),
        ("vit.layers.{layer}.mlp.fc1.", "vit.encoder.layer.{layer}.intermediate.dense."),
        ("vit.layers.{layer}.mlp.fc2.", "vit.encoder.layer.{layer}.output.dense."),
    ),
    padding=Padding("layer", "layer_norm_eps"),
    activation="hidden_act",
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
)
