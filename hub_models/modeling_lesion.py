"""What every lesion classifier shares: one forward, one output, one prediction dictionary, one way of saving.

A classifier adds a configuration and, where it differs, some of these hooks:

======================  ===========================================  =======================================
hook                    what it answers                              as given here
======================  ===========================================  =======================================
``input_names``         what ``forward`` takes beside the labels     ``("pixel_values",)``
``build()``             makes the parts, sets ``feature_dim``        backbone, dropout, head
``pretrained_parts()``  parts whose first values are not redrawn     the backbone
``frozen_parts()``      parts that training leaves as they are       the backbone when ``freeze_backbone``
``build_backbone()``    the module, and the width D of its features  a CNN of timm, pooled
``build_head()``        (N, D) -> (N, C)                             one linear layer
``load_backbone(w)``    fill it, say from where                      timm's download, or a safetensors file
``pixel_statistics()``  channel mean and deviation it is trained on  the backbone's
``check_processor(p)``  refuses a processor the weights don't fit    compares ``pixel_settings``
``encode(pixels)``      (N, 3, H, W) -> (N, D)                       the backbone
``early_layers()``      what the gate may look at beside features    the backbone's stage at 1/8 of the size
``hidden_layers()``     whose outputs are the ``hidden_states``      the backbone's stages
``last_layer()``        what gives ``last_hidden_state``             what the backbone's pooling receives
``explained_layers()``  whose input is explained, one a member       the backbone's pooling
``as_maps(a, size)``    that input -> (N, C, h, w) of image size   itself
``attentions()``        (query layer, key layer, heads) a layer      none
``classify(features)``  (N, D) -> (N, C) or (N, M, C) raw logits     dropout and the head
``layer_groups()``      parameter names from input to output         the pretrained parts, then the rest
======================  ===========================================  =======================================

M members answer with raw logits (N, M, C): the output is then the mean of their probabilities, and says how much of its
uncertainty is their disagreement. A classifier with further inputs names them in ``input_names`` and writes its own
two-line ``forward`` around ``encode``, ``classify`` and ``answer``. Its features alone, without answers, are what
``AutoModel`` loads: a subclass ``<X>LesionModel(LesionFeatures, <X>ForLesionClassification)`` in the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .answer_lesion import LesionAnswers, TrustBuffers
from .backbone_lesion import (
    BackboneWeightsError,
    build_timm_backbone,
    early_stages,
    load_backbone_file,
    load_timm_weights,
    stages,
)
from .checks_lesion import MOST_PARAMETERS
from .configuration_lesion import LesionConfig, LesionConfigError
from .explain_lesion import ExplanationError, LesionExplanations, pooling_layers
from .ood_lesion import EARLY, channel_statistics, ood_score
from .storage_lesion import LesionStorage
from .trust_lesion import calibrate, check_finite, joint_logits, mean_log_probs, uncertainty_parts

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; whoever loads a model may have 3.10


class PixelShapeError(ValueError):
    """Images that are not a batch (N, 3, H, W)."""


@dataclass
class LesionOutput(ModelOutput):
    """What a lesion classifier returns.

    Attributes:
        loss: () mean cross-entropy at temperature 1 in nats; only with labels.
        logits: (N, C) float32. In eval mode calibrated, so that a plain softmax is; in train mode at temperature 1. Of
            several members: the log of their mean probability.
        raw_logits: (N, C) float32 before temperature; (N, M, C) of M members.
        features: (N, D) pooled features, what the head sees before its dropout.
        predictive_entropy: (N,) entropy of the probabilities in nats = aleatoric + epistemic; None without members.
        aleatoric: (N,) expected entropy of the members in nats; None without members.
        epistemic: (N,) mutual information in nats, >= 0; None without members.
        early: (N, E) what an early layer sees, for fitting a gate; only where ``give_early`` is set.
        ood_score: (N,) higher = less like the calibration images; only in eval mode, once a gate was fitted.
        hidden_states: what each stage of a CNN (N, C, h, w) or each layer of a transformer (N, 1 + L, D) gives, in
            order; only with ``output_hidden_states``.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    raw_logits: torch.Tensor | None = None
    features: torch.Tensor | None = None
    predictive_entropy: torch.Tensor | None = None
    aleatoric: torch.Tensor | None = None
    epistemic: torch.Tensor | None = None
    early: torch.Tensor | None = None
    ood_score: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class LesionForImageClassification(LesionAnswers, LesionExplanations, LesionStorage, PreTrainedModel):
    """Shared base of all lesion classifiers; by itself a CNN of timm with dropout and a linear head.

    ``predict`` gives the whole answer in words, ``explain`` heat maps of where it looked.

    The constructor never downloads: :meth:`from_backbone` does, when it is asked to.

    Args:
        config: a :class:`LesionConfig` or a classifier's own.
    """

    config_class = LesionConfig
    config: LesionConfig
    main_input_name = "pixel_values"
    input_names: tuple[str, ...] = ("pixel_values",)
    # Weights whose config has no gate, or has lost it with its labels, may still hold the gate's matrices.
    _keys_to_ignore_on_load_unexpected = [r"^trust\."]
    # Trainer would otherwise hand num_items_in_batch to forward.
    accepts_loss_kwargs = False
    # Whether the output holds what an early layer sees; set while a gate is fitted.
    give_early: bool = False
    # The image processor settings of a trained model that the first weights were taken from; None = a plain backbone.
    pixel_settings: dict[str, Any] | None = None

    def __init__(self, config: LesionConfig) -> None:
        super().__init__(config)
        config.check()
        self.build()
        # Inside from_pretrained nothing has been allocated yet: a hostile config ends here.
        parameters = sum(weight.numel() for weight in self.parameters())
        if parameters > MOST_PARAMETERS:
            raise LesionConfigError(
                f"the config describes a model of {parameters:,} parameters; give one of at most {MOST_PARAMETERS:,}."
            )
        self.trust = TrustBuffers(config.trust)
        self._keep_pretrained_values()
        self.post_init()
        for part in self.frozen_parts():
            part.requires_grad_(False)

    # ---------------------------------------------------------------- hooks

    def build(self) -> None:
        """Make the model's parts from the config, at random, and set ``feature_dim``."""
        self.backbone, self.feature_dim = self.build_backbone()
        self.dropout = nn.Dropout(self.config.dropout)
        self.head = self.build_head()

    def pretrained_parts(self) -> list[nn.Module]:
        """The parts that initialise themselves, so that transformers must not redraw their values."""
        return [self.backbone]

    def frozen_parts(self) -> list[nn.Module]:
        """The parts that stay as they are: no gradients, and always in eval mode (their statistics stand still)."""
        return [self.backbone] if self.config.freeze_backbone else []

    def build_backbone(self) -> tuple[nn.Module, int]:
        """Build the backbone that the config names, at random: the module and the width D of its features."""
        return build_timm_backbone(self.config.backbone, **self.config.backbone_kwargs)

    def build_head(self) -> nn.Module:
        """Build what maps features (N, D) to raw logits (N, C)."""
        return nn.Linear(self.feature_dim, len(self.config.labels))

    def load_backbone(self, weights: str | os.PathLike[str]) -> str:
        """Fill the backbone with pretrained weights.

        Args:
            weights: ``"timm"``, or the path of a safetensors file.

        Returns:
            A phrase that says what was loaded.

        Raises:
            BackboneWeightsError: they cannot be fetched, found, read or fitted.
        """
        if weights == "timm":
            return load_timm_weights(self.backbone, self.config.backbone, **self.config.backbone_kwargs)
        return load_backbone_file(self.backbone, weights)

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Channel mean and standard deviation (of pixels in [0, 1]) that the first weights were trained with."""
        if self.pixel_settings is not None:
            return list(self.pixel_settings["image_mean"]), list(self.pixel_settings["image_std"])
        known = getattr(self.backbone, "pretrained_cfg", None) or {}
        return list(known.get("mean", IMAGENET_DEFAULT_MEAN)), list(known.get("std", IMAGENET_DEFAULT_STD))

    def check_processor(self, processor: Any) -> None:
        """Refuse an image processor that shows the first weights other pixels than they were trained on.

        Raises:
            BackboneWeightsError: names the setting that differs.
        """
        if self.pixel_settings is None:
            return
        for name, ours in processor.pixel_settings().items():
            # A switch that a processor does not know is one that is off.
            theirs = self.pixel_settings.get(name)
            if (theirs or False) != (ours or False):
                raise BackboneWeightsError(
                    f"the image model was trained with {name} {theirs}, this run has {ours}; give the same."
                )

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> pooled features (N, D)."""
        return self.backbone(pixel_values)

    def early_layers(self) -> list[nn.Module]:
        """The layers whose channels the gate may look at, one a backbone; none where the model sees no image."""
        return early_stages([self.backbone])

    def hidden_layers(self) -> list[nn.Module]:
        """The layers whose outputs are the hidden states, from the input to the output."""
        return stages([self.backbone])

    def last_layer(self) -> tuple[nn.Module, str] | None:
        """The layer whose ``input`` or ``output`` (say which) is the last hidden state; None where there is none."""
        try:
            return pooling_layers([self.backbone])[0], "input"
        except ExplanationError:  # a backbone that does not pool a map
            return None

    def explained_layers(self) -> list[nn.Module]:
        """The layers whose input ``explain`` weighs by its gradient, one a member; none where it sees no image."""
        return pooling_layers([self.backbone])

    def as_maps(self, activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What an explained layer receives, for images of ``size`` (H, W) -> (N, C, h, w)."""
        return activation

    def attentions(self) -> list[tuple[nn.Module, nn.Module, int]]:
        """Query layer, key layer and number of heads of each attention, from input to output; none in a CNN."""
        return []

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Pooled features (N, D) -> raw logits (N, C); M members answer with (N, M, C)."""
        return self.head(self.dropout(features))

    def layer_groups(self) -> list[list[str]]:
        """Parameter names in groups from the input to the output, each name in exactly one, for layer-wise decay of the
        learning rate: the last group learns at the full rate.
        """
        pretrained = {id(value) for part in self.pretrained_parts() for value in part.parameters()}
        names = [(name, id(value) in pretrained) for name, value in self.named_parameters()]
        groups = ([name for name, early in names if early], [name for name, early in names if not early])
        return [group for group in groups if group]

    # -------------------------------------------------------------- forward

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> LesionOutput | tuple[torch.Tensor, ...]:
        """Classify a batch.

        Args:
            pixel_values: (N, 3, H, W), as the image processor returns them.
            labels: (N,) class indices, or (N, C) class probabilities; adds the loss.
            return_dict: False returns a tuple of the fields that are not None.
            output_hidden_states: add ``hidden_states``; None = as the config says.

        Raises:
            PixelShapeError: ``pixel_values`` is not a batch of three-channel images.
        """
        seen = self.look(self.check_pixels(pixel_values), output_hidden_states=output_hidden_states)
        return self.answer(seen[0], self.classify(seen[0]), labels, return_dict, *seen[1:])

    def look(self, *inputs: torch.Tensor | None, output_hidden_states: bool | None = None) -> tuple[Any, Any, Any]:
        """``encode``: features (N, D); (N, E) of the early layers or None; the hidden states or None."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = self.hidden_layers() if wanted else []
        asked = self.give_early or self.config.trust.get("ood", {}).get("detector") in EARLY
        early = [] if self.training or not asked else self.early_layers()
        watched = [(layer, "output", None) for layer in hidden]
        with kept([(layer, "output", channel_statistics) for layer in early]) as statistics, kept(watched) as states:
            features = self.encode(*inputs)  # type: ignore[arg-type]
        joined = torch.cat([statistics[number] for number in range(len(early))], dim=1) if early else None
        return features, joined, tuple(states[number] for number in sorted(states)) if wanted else None

    def answer(
        self,
        features: torch.Tensor,
        raw_logits: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        early: torch.Tensor | None = None,
        hidden_states: tuple[torch.Tensor, ...] | None = None,
    ) -> LesionOutput | tuple[torch.Tensor, ...]:
        """Turn features (N, D) and raw logits into the output; calibrated in eval mode, with the loss where labels are.

        Args:
            features: (N, D).
            raw_logits: (N, C), or (N, M, C) of M members.
            labels: (N,) class indices, or (N, C) class probabilities.
            return_dict: False returns a tuple of the fields that are not None.
            early: (N, E) of :meth:`look`.
            hidden_states: of :meth:`look`.

        Raises:
            NotFiniteError: in eval mode and without labels, where a logit is NaN or infinite.
        """
        if raw_logits.dtype in (torch.float16, torch.bfloat16):
            # Temperature, entropy and loss of half-precision logits would lose their last digits for nothing.
            raw_logits = raw_logits.float()
        fitted = {} if self.training else self.config.trust
        logits = calibrate(raw_logits, fitted.get("temperature"))
        log_probs = functional.log_softmax(logits, dim=-1) if logits.ndim == 3 else None
        total, aleatoric, epistemic = (None, None, None) if log_probs is None else uncertainty_parts(log_probs)
        output = LesionOutput(
            loss=None if labels is None else functional.cross_entropy(joint_logits(raw_logits), labels),
            logits=logits if log_probs is None else mean_log_probs(log_probs),
            raw_logits=raw_logits,
            features=features,
            predictive_entropy=total,
            aleatoric=aleatoric,
            epistemic=epistemic,
            early=early if self.give_early else None,
            ood_score=self.strangeness(features, raw_logits, early) if fitted.get("ood") else None,
            hidden_states=hidden_states,
        )
        if labels is None and not self.training:
            # The one place that every answer passes, with trust or without. With labels it is the loss that is asked
            # for, and a training that diverges reports it itself.
            what_to_do = (
                "no class can be named; the weights are damaged or the training diverged: fetch the model again"
            )
            check_finite("the logits", raw_logits, what_to_do)
            calibrated: Any = output.logits
            check_finite("the calibrated logits", calibrated, what_to_do)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def strangeness(
        self, features: torch.Tensor, raw_logits: torch.Tensor, early: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the fitted gate says (N,) of features (N, D), raw logits, early statistics (N, E): higher = more OOD."""
        gate, temperature = self.config.trust["ood"], self.config.softmax_temperature
        buffers = self.trust.as_dict()
        return ood_score(gate["detector"], features, raw_logits, temperature, gate["settings"], buffers, early)

    def set_trust(self, trust: dict[str, Any], buffers: dict[str, torch.Tensor] | None = None) -> None:
        """Take over what was fitted: numbers into the config, matrices into float32 buffers.

        Args:
            trust: as ``config.trust`` describes it.
            buffers: name -> matrix, of the shapes that ``trust["ood"]["buffers"]`` names.

        Raises:
            LesionConfigError: a number is impossible.
        """
        before, self.config.trust = self.config.trust, trust
        try:
            self.config.check()
        except ValueError:
            self.config.trust = before
            raise
        self.trust = TrustBuffers(trust).to(self.device)
        self.trust.load_state_dict({name: torch.as_tensor(value) for name, value in (buffers or {}).items()})

    def check_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Check the shape (N, 3, H, W) and bring the pixels to the weights' floating type.

        Raises:
            PixelShapeError: says the shape received.
            NotFiniteError: in eval mode, where a pixel is NaN or infinite.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise PixelShapeError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}; give (N, 3, H, W), as the image processor "
                "returns them."
            )
        if not self.training:
            check_finite("the pixels", pixel_values, "give finite numbers, as the image processor returns them.")
        # The replicas of DataParallel have no parameters to list: they take the pixels as they are.
        return pixel_values.to(next((weight.dtype for weight in self.parameters()), pixel_values.dtype))

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode (or eval mode); frozen parts always stay in eval mode, and ask for no gradients."""
        super().train(mode)
        for part in self.frozen_parts():
            part.eval().requires_grad_(False)  # loading a checkpoint makes every parameter trainable again
        return self

    # -------------------------------------------------- weights: first, saved

    @classmethod
    def from_backbone(
        cls, config: LesionConfig, weights: str | os.PathLike[str] | None = None, **parts: str | os.PathLike[str]
    ) -> Self:
        """Build a classifier with a new head on a pretrained backbone.

        Args:
            config: the classifier's configuration; its ``initialised_from`` is set to what was loaded.
            weights: None = random; ``"timm"`` = timm's pretrained weights, from the Hub or the cache; otherwise the
                path of a safetensors file whose keys are timm's or torchvision's.
            **parts: weights of further parts, by name; only for classifiers that have some.

        Raises:
            BackboneWeightsError: there is no such part; the weights cannot be fetched, found, read or fitted.
        """
        if parts:
            raise BackboneWeightsError(
                f"{cls.__name__} has no part that takes {', '.join(sorted(parts))}; leave that option out."
            )
        model = cls(config)
        model.config.initialised_from = "random" if weights is None else model.load_backbone(weights)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save weights, configuration and code, also that of the pipeline; :class:`LesionStorage` describes the rest.

        ``config.json`` names the classes of ``AutoModelForImageClassification``, of ``AutoModel`` and of the pipeline,
        whichever of them is saved, and in this folder: a model that was loaded from the Hub names them there.
        """
        # Here: transformers copies every file that is imported, and a model alone needs no pipeline in memory.
        from .pipeline_lesion import PIPELINE_TASK, LesionClassificationPipeline

        if self._auto_class is not None:
            module, names = type(self).__module__.rpartition(".")[2], self.class_names()
            stored: dict[str, str] = getattr(self.config, "auto_map", None) or {}
            known = {auto: name.rpartition("--")[2] for auto, name in stored.items()}
            self.config.auto_map = known | {auto: f"{module}.{name}" for auto, name in names.items()}
            impl = f"pipeline_lesion.{LesionClassificationPipeline.__name__}"
            about = {"impl": impl, "pt": ["AutoModelForImageClassification"], "type": "multimodal"}
            self.config.custom_pipelines = {PIPELINE_TASK: about}
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def class_names(cls) -> dict[str, str]:
        """Auto class -> name of the class that it loads; both stand in the same file."""
        stem = cls.__name__.removesuffix("LesionModel").removesuffix("ForLesionClassification")
        return {"AutoModel": f"{stem}LesionModel", "AutoModelForImageClassification": f"{stem}ForLesionClassification"}

    # ---------------------------------------------------------- initialising

    def _keep_pretrained_values(self) -> None:
        """Mark freshly built backbones as initialised, so that transformers does not redraw timm's values.

        On the meta device (inside ``from_pretrained``) there are no values yet: then nothing is marked, and what the
        checkpoint lacks is drawn by :meth:`_init_weights`.
        """
        for module in (module for part in self.pretrained_parts() for module in part.modules()):
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if not any(tensor.is_meta for tensor in own):
                setattr(module, "_is_hf_initialized", True)  # noqa: B010 - not an attribute that nn.Module declares

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Give a value to whatever neither timm nor a checkpoint has set; transformers calls it module by module."""
        super()._init_weights(module)
        compute_constants: Any = getattr(module, "init_non_persistent_buffers", None)
        if compute_constants is not None:
            # Constants such as anti-aliasing filters stand in no checkpoint: timm computes them again.
            compute_constants()


class LesionFeatures:
    """The part of a classifier before the head, as ``AutoModel`` loads it; put before the classifier's own class.

    The head is kept, so that nothing is lost when the model is saved again.
    """

    config: Any
    last_layer: Any

    def forward(
        self, *inputs: Any, return_dict: bool | None = None, output_hidden_states: bool | None = None, **named: Any
    ) -> Any:
        """Encode a batch.

        Args:
            *inputs: the classifier's, such as ``pixel_values`` (N, 3, H, W), as the image processor returns them.
            **named: the same by name.
            return_dict: False returns a tuple of the fields that are not None.
            output_hidden_states: add ``hidden_states``; None = as the config says.

        Returns:
            ``pooler_output`` (N, D), what the head receives; ``last_hidden_state``, the last map (N, C, h, w) of a CNN
            or the tokens (N, 1 + L, D) of a transformer, None of several members and of a model that reads no image;
            ``hidden_states`` as in :class:`LesionOutput`.
        """
        last = self.last_layer()
        with kept([] if last is None else [(*last, None)]) as seen:
            output = super().forward(  # type: ignore[misc]
                *inputs, return_dict=True, output_hidden_states=output_hidden_states, **named
            )
        found = BaseModelOutputWithPooling(
            last_hidden_state=seen.get(0), pooler_output=output.features, hidden_states=output.hidden_states
        )
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return found if use_dict else found.to_tuple()


@contextmanager
def kept(watched: Sequence[tuple[nn.Module, str, Any]]) -> Iterator[dict[int, torch.Tensor]]:
    """Keep what layers receive or give while the context is open, by their numbers in ``watched``.

    Args:
        watched: for each the layer, ``input`` or ``output``, and a function of the tensor (None = the tensor itself).
    """
    seen: dict[int, torch.Tensor] = {}

    def keep(number: int, which: str, what: Any) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            value = inputs[0] if which == "input" else output
            value = value[0] if isinstance(value, tuple) else value
            seen[number] = value if what is None else what(value)

        return hook

    handles = [
        layer.register_forward_hook(keep(number, which, what)) for number, (layer, which, what) in enumerate(watched)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
