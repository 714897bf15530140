"""Configuration of the 12-class classifier: a Vision Transformer, described in full, with one linear head."""

from __future__ import annotations

from typing import Any

from transformers import ViTConfig

from .checks_lesion import MOST_PARAMETERS, brief, is_number, is_whole
from .configuration_lesion import LesionConfig, LesionConfigError

# (width, layers) -> the name that the paper gives this size.
SIZES = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
# What describes the transformer; each is a field of transformers' ViTConfig under the same name.
# The largest value of each number in a config; ViT-G of Zhai et al. 2022 has 1664, 48, 16 and 8192.
LARGEST = {
    "patch_size": 512,
    "hidden_size": 4096,
    "num_hidden_layers": 64,
    "num_attention_heads": 128,
    "intermediate_size": 16_384,
}
ARCHITECTURE = (
    "patch_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "qkv_bias",
    "initializer_range",
)


# Activations of a ViT's MLP, by their names in transformers.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "mish", "quick_gelu", "relu", "relu6", "silu", "swish")


class ViTLesionConfig(LesionConfig):
    """ViT-L/32 at 384 px with a plain linear head, as published; the fields describe any other ViT as well.

    ``backbone`` is not chosen: it is the architecture's name, ``vit_large_patch32_384`` by default, and follows from
    the other fields. Paper: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; table 1 lists the sizes.

    Args:
        patch_size: side of a patch in pixels; ``image_size`` is a multiple of it.
        hidden_size: width D of a token, and of the features; a multiple of ``num_attention_heads``.
        num_hidden_layers: number of transformer layers.
        num_attention_heads: heads of each layer.
        intermediate_size: width of each layer's MLP.
        hidden_act: activation of the MLP.
        hidden_dropout_prob: dropout in [0, 1) after the embeddings, the attention and the MLP while training.
        attention_probs_dropout_prob: dropout in [0, 1) of attention weights while training.
        layer_norm_eps: epsilon of the layer norms.
        qkv_bias: whether queries, keys and values have biases.
        initializer_range: standard deviation of the first random weights.
        drop_path_rate: stochastic depth in [0, 1) of the last layer, rising linearly from 0 at the first (Huang et al.
            2016); 0 = none.
    """

    model_type = "lesion_vit"

    backbone: str = ""
    image_size: int = 384
    dropout: float = 0.0
    patch_size: int = 32
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    initializer_range: float = 0.02
    drop_path_rate: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone == "":
            self.backbone = self.architecture_name
        super().__post_init__(**kwargs)

    @property
    def architecture_name(self) -> str:
        """timm's name for what the fields describe, e.g. ``vit_large_patch32_384``; ``vit_64x2_...`` for others."""
        shape = (self.hidden_size, self.num_hidden_layers)
        return f"vit_{SIZES.get(shape, '{}x{}'.format(*shape))}_patch{self.patch_size}_{self.image_size}"

    def vit_config(self, **more: Any) -> ViTConfig:
        """The same transformer as transformers' own configuration; ``more`` are further fields of it."""
        fields = {name: getattr(self, name) for name in ARCHITECTURE}
        return ViTConfig(**fields, image_size=self.image_size, num_channels=3, **more)

    def adopt(self, vit: ViTConfig) -> None:
        """Take over the architecture of a ViT, but for its image size.

        Raises:
            LesionConfigError: its patches are not square, or it does not read three channels.
        """
        fields = {name: getattr(vit, name) for name in ARCHITECTURE}
        side = fields["patch_size"]
        if not isinstance(side, int):
            if len(set(side)) > 1:
                raise LesionConfigError(f"its patch_size is {list(side)}; give a ViT with square patches.")
            fields["patch_size"] = int(side[0])
        if vit.num_channels != 3:
            raise LesionConfigError(f"its num_channels is {vit.num_channels}; give a ViT that reads RGB images.")
        for name, value in fields.items():
            setattr(self, name, value)
        self.backbone = self.architecture_name
        self.check()

    def check_grid(self) -> None:
        """Check that patches tile the image; called by the model, since a checkpoint may bring another patch size.

        Raises:
            LesionConfigError: ``image_size`` is no multiple of ``patch_size``.
        """
        if self.image_size % self.patch_size:
            lower = max(self.image_size // self.patch_size, 1) * self.patch_size
            raise LesionConfigError(
                f"image_size {self.image_size} is no multiple of the ViT's patch_size {self.patch_size}; "
                f"give e.g. {lower} or {lower + self.patch_size}."
            )

    def _check_backbone(self) -> None:
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if not is_whole(value, 1, most):
                raise LesionConfigError(f"{name} is {brief(value)}; give a whole number from 1 to {most}.")
        parameters = self.num_hidden_layers * self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        if parameters > MOST_PARAMETERS:
            raise LesionConfigError(
                f"hidden_size {self.hidden_size}, num_hidden_layers {self.num_hidden_layers} and intermediate_size "
                f"{self.intermediate_size} make {parameters:,} parameters; give a ViT of at most {MOST_PARAMETERS:,}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise LesionConfigError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}; "
                "give two numbers that divide."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            value = getattr(self, name)
            if not is_number(value) or not 0.0 <= value < 1.0:
                raise LesionConfigError(f"{name} is {brief(value)}; give a probability in [0, 1).")
        for name in ("layer_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not is_number(value) or not 0.0 < value <= 1.0:
                raise LesionConfigError(f"{name} is {brief(value)}; give a number in (0, 1].")
        if not isinstance(self.qkv_bias, bool):
            raise LesionConfigError(f"qkv_bias is {brief(self.qkv_bias)}; give true or false.")
        if self.hidden_act not in ACTIVATIONS:
            raise LesionConfigError(f"hidden_act is {brief(self.hidden_act)}; choose one of {', '.join(ACTIVATIONS)}.")
        super()._check_backbone()
        if self.backbone != self.architecture_name or self.backbone_kwargs:
            raise LesionConfigError(
                f"backbone is {self.backbone!r} with {self.backbone_kwargs}, but the fields describe "
                f"{self.architecture_name}; leave both out and set patch_size, hidden_size, ..., or start from weights."
            )
