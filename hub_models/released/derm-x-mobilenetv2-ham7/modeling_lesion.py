"""The base of all lesion classifiers: one forward, one output, one dictionary per image, one way to save.

A classifier adds a configuration and overrides the hooks in which it differs: ``input_names``, ``build``,
``pretrained_parts``, ``frozen_parts``, ``build_backbone``, ``build_head``, ``load_backbone``, ``pixel_statistics``,
``check_processor``, ``encode``, ``early_layers``, ``hidden_layers``, ``last_layer``, ``explained_layers``, ``as_maps``,
``attentions``, ``classify``, ``layer_groups``. The base itself is a CNN of timm with dropout and a linear head.

M members return raw logits (N, M, C): the output is then the mean of their probabilities, and states how much of its
uncertainty is their disagreement. A classifier with further inputs names them in ``input_names`` and writes its own
two-line ``forward`` around ``run_encoder``, ``classify`` and ``answer``. ``AutoModel`` loads the features alone: a
subclass ``<X>LesionModel(LesionFeatures, <X>ForLesionClassification)`` in the same file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .answer_lesion import PredictSteps
from .backbone_lesion import (
    BackboneWeightsError,
    build_timm_backbone,
    early_stages,
    keep_values,
    load_backbone_file,
    load_timm_weights,
    stages,
)
from .backend_lesion import RunsGraph, run_graph
from .checks_lesion import MOST_PARAMETERS, check_image_batch
from .configuration_lesion import LesionConfig, LesionConfigError
from .explain_lesion import (
    ExplanationError,
    LesionExplanation,
    Target,
    explained_pass,
    explanation_methods,
    pooling_layers,
)
from .infer_lesion import recorded
from .ood_lesion import EARLY, channel_statistics, ood_score
from .output_lesion import LesionOutput, make_output
from .preprocess_lesion import FIRST_SETTINGS
from .storage_lesion import LesionPreTrainedModel
from .trust_lesion import TrustBuffers, check_finite

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; whoever loads a model may have 3.10

NO_CLASS = "no class can be named; the weights are damaged or the training diverged: fetch the model again"


class LesionForImageClassification(PredictSteps, RunsGraph, LesionPreTrainedModel):
    """The base of all lesion classifiers.

    ``predict`` returns a dictionary per image, ``explain`` heat maps. The constructor never downloads.

    Args:
        config: a :class:`LesionConfig` or a classifier's own.
    """

    config_class = LesionConfig
    config: LesionConfig
    main_input_name = "pixel_values"
    input_names: tuple[str, ...] = ("pixel_values",)
    # The weights may hold the matrices of a gate that the config has not, or lost with its labels.
    _keys_to_ignore_on_load_unexpected = [r"^trust\."]
    # Whether the output holds the statistics of an early layer; set while a gate is fitted.
    give_early: bool = False
    # The image processor settings of the trained model that the first weights come from; None = a plain backbone.
    pixel_settings: dict[str, Any] | None = None

    def __init__(self, config: LesionConfig) -> None:
        super().__init__(config)
        config.check()
        self.build()
        # Inside from_pretrained nothing is allocated yet: a hostile config ends here.
        parameters = sum(weight.numel() for weight in self.parameters())
        if parameters > MOST_PARAMETERS:
            raise LesionConfigError(
                f"the config describes a model of {parameters:,} parameters; give one of at most {MOST_PARAMETERS:,}."
            )
        self.trust = TrustBuffers(config.trust)
        keep_values(self.pretrained_parts())
        self.post_init()
        for part in self.frozen_parts():
            part.requires_grad_(False)

    # ---------------------------------------------------------------- hooks

    def build(self) -> None:
        """Create the model's parts from the config, at random, and set ``feature_dim``."""
        self.backbone, self.feature_dim = self.build_backbone()
        self.dropout = nn.Dropout(self.config.dropout)
        self.head = self.build_head()

    def pretrained_parts(self) -> list[nn.Module]:
        """The parts with their own first values, which transformers must not redraw."""
        return [self.backbone]

    def frozen_parts(self) -> list[nn.Module]:
        """The parts that training does not change: no gradients, and always in eval mode (fixed statistics)."""
        return [self.backbone] if self.config.freeze_backbone else []

    def build_backbone(self) -> tuple[nn.Module, int]:
        """The backbone that the config names, at random, and the width D of its features."""
        return build_timm_backbone(self.config.backbone, **self.config.backbone_kwargs)

    def build_head(self) -> nn.Module:
        """The module that maps features (N, D) to raw logits (N, C)."""
        return nn.Linear(self.feature_dim, len(self.config.labels))

    def load_backbone(self, weights: str | os.PathLike[str]) -> str:
        """Fill the backbone with pretrained weights.

        Args:
            weights: ``"timm"``, or the path of a safetensors file.

        Returns: what was loaded, in words. Raises BackboneWeightsError where they cannot be found, read or fitted.
        """
        if weights == "timm":
            return load_timm_weights(self.backbone, self.config.backbone, **self.config.backbone_kwargs)
        return load_backbone_file(self.backbone, weights)

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Channel mean and standard deviation (of pixels in [0, 1]) in the training of the first weights."""
        if self.pixel_settings is not None:
            return list(self.pixel_settings["image_mean"]), list(self.pixel_settings["image_std"])
        known = getattr(self.backbone, "pretrained_cfg", None) or {}
        return list(known.get("mean", IMAGENET_DEFAULT_MEAN)), list(known.get("std", IMAGENET_DEFAULT_STD))

    def check_processor(self, processor: Any) -> None:
        """Refuse an image processor with other settings than the first weights were trained with.

        Raises:
            BackboneWeightsError: names the setting that differs.
        """
        if self.pixel_settings is None:
            return
        for name, ours in processor.pixel_settings().items():
            theirs = self.pixel_settings.get(name, FIRST_SETTINGS.get(name))
            if (theirs or False) != (ours or False):
                raise BackboneWeightsError(
                    f"the image model was trained with {name} {theirs}, this run has {ours}; give the same."
                )

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> pooled features (N, D)."""
        return self.backbone(pixel_values)

    def early_layers(self) -> list[nn.Module]:
        """The layers whose channel statistics the gate may read, one per backbone; none without an image input."""
        return early_stages([self.backbone])

    def hidden_layers(self) -> list[nn.Module]:
        """The layers whose outputs are the ``hidden_states``, from the input to the output."""
        return stages([self.backbone])

    def last_layer(self) -> tuple[nn.Module, str] | None:
        """The layer whose ``input`` or ``output`` (which of the two) is ``last_hidden_state``; None = there is none."""
        try:
            return pooling_layers([self.backbone])[0], "input"
        except ExplanationError:  # a backbone that does not pool a map
            return None

    def explained_layers(self) -> list[nn.Module]:
        """The layers whose input ``explain`` weighs by its gradient, one per member; none without an image input."""
        return pooling_layers([self.backbone])

    def as_maps(self, activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The input of an explained layer, for images of ``size`` (H, W) -> (N, C, h, w)."""
        return activation

    def attentions(self) -> list[tuple[nn.Module, nn.Module, int]]:
        """Query layer, key layer and number of heads of each attention, from input to output; none in a CNN."""
        return []

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Pooled features (N, D) -> raw logits (N, C), or (N, M, C) of M members."""
        return self.head(self.dropout(features))

    def layer_groups(self) -> list[list[str]]:
        """Parameter names in groups from input to output, for layer-wise learning rates; the last has the full rate."""
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
        seen = self.run_encoder(self.check_pixels(pixel_values), output_hidden_states=output_hidden_states)
        return self.answer(seen[0], self.classify(seen[0]), labels, return_dict, *seen[1:])

    def run_encoder(
        self, *inputs: torch.Tensor | None, output_hidden_states: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...] | None]:
        """``encode``: features (N, D); (N, E) of the early layers or None; the hidden states or None."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        needed = self.give_early or self.config.trust.get("ood", {}).get("detector") in EARLY
        if not wanted and (found := run_graph(self, inputs, needed)) is not None:
            return *found, None
        hidden = [(layer, "output", None) for layer in self.hidden_layers()] if wanted else []
        layers = [] if self.training or not needed else self.early_layers()
        early = [(layer, "output", channel_statistics) for layer in layers]
        with recorded(early) as statistics, recorded(hidden) as states:
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
        """The output from features and raw logits: calibrated in eval mode, with the loss where labels are given.

        Args:
            features: (N, D).
            raw_logits: (N, C), or (N, M, C) of M members.
            labels, return_dict: of :meth:`forward`.
            early, hidden_states: of :meth:`run_encoder`.

        Raises:
            NotFiniteError: in eval mode and without labels, where a logit is NaN or infinite.
        """
        trust = {} if self.training else self.config.trust
        output = make_output(
            features,
            raw_logits,
            labels,
            trust.get("temperature"),
            early=early if self.give_early else None,
            ood_score=self.ood_scores(features, raw_logits, early) if trust.get("ood") else None,
            hidden_states=hidden_states,
        )
        if labels is None and not self.training:
            # Every prediction passes here. With labels the caller wants the loss; a training reports its divergence.
            check_finite("the logits", raw_logits, NO_CLASS)
            check_finite("the calibrated logits", output.logits, NO_CLASS)  # type: ignore[arg-type]
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def ood_scores(
        self, features: torch.Tensor, raw_logits: torch.Tensor, early: torch.Tensor | None = None
    ) -> torch.Tensor:
        """OOD score (N,) of the fitted gate from features (N, D), raw logits, early statistics (N, E); higher = OOD."""
        gate, temperature = self.config.trust["ood"], self.config.softmax_temperature
        buffers = self.trust.as_dict()
        return ood_score(gate["detector"], features, raw_logits, temperature, gate["settings"], buffers, early)

    def set_trust(self, trust: dict[str, Any], buffers: dict[str, torch.Tensor] | None = None) -> None:
        """Set what was fitted: numbers in the config, matrices in float32 buffers.

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
        """The pixels in the weights' floating type, channels last in memory, after a check of the shape (N, 3, H, W).

        Convolutions on a CPU are faster with channels last, whatever the layout of the weights.

        Raises:
            PixelShapeError, NotFiniteError: another shape; in eval mode, a pixel that is NaN or infinite.
        """
        check_image_batch(tuple(pixel_values.shape))
        if not self.training:
            check_finite("the pixels", pixel_values, "give finite numbers, as the image processor returns them.")
        # The replicas of DataParallel list no parameters: they take the pixels as they are.
        dtype = next((weight.dtype for weight in self.parameters()), pixel_values.dtype)
        return pixel_values.to(dtype=dtype, memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """Switch to train mode (or eval mode); frozen parts stay in eval mode, without gradients.

        Training changes the weights, to which a graph then no longer belongs: torch runs from here on.
        """
        super().train(mode)
        if mode:
            self.graph = None
        for part in self.frozen_parts():
            part.eval().requires_grad_(False)  # loading a checkpoint makes every parameter trainable again
        return self

    # -------------------------------------------------------------- predict

    @torch.inference_mode()
    def predict(
        self,
        *,
        trust: bool = True,
        inference: str = "plain",
        prior: Mapping[str, float] | Sequence[float] | None = None,
        decision: str | None = None,
        samples: int = 30,
        seed: int = 0,
        prepared_as: Mapping[str, Any] | None = None,
        group: Any = None,
        explain: str | None = None,
        **inputs: torch.Tensor,
    ) -> list[dict[str, Any]]:
        """Classify a batch in eval mode.

        Args:
            trust: False = without band, set, gate and the decision to abstain, also where none were fitted.
            inference: ``plain``, ``tta``, ``mc_dropout`` or ``mc_dropout_full``. Another one than at the calibration
                withdraws band and set.
            prior: share of each class where the model is used, by name or in the order of the labels, positive, sum 1;
                re-weighs the probabilities and withdraws band and set. None = as at the calibration.
            decision: a rule of ``decision_lesion``; another than the model's own (None) withdraws band and set.
            samples, seed: passes of MC dropout, and the seed of their masks.
            prepared_as: settings of the image processor that made the inputs; None = only the size is compared.
            group: where sets and bands were fitted by group: its name or age; one for all or per image; None = unknown.
            explain: a method of :meth:`explain`; adds ``heat_map`` (H, W) of the class named, from the same pass.
            **inputs: what the image processor returns: ``pixel_values`` (N, 3, H, W).

        Returns:
            One dictionary per image:

            - ``predicted`` (short name, by ``decision``), ``probabilities`` (short name -> [0, 1], sum 1),
              ``p_malignant`` (sum over malignant and premalignant classes; None when the config knows no groups);
            - ``predictive_entropy`` (nats, in [0, log C]), and its parts ``aleatoric`` and ``epistemic`` (nats; None
              without members, views or samples);
            - ``decision`` (the rule), ``malignancy`` (``flagged`` or ``not flagged`` as possibly malignant; None where
              the image is out of distribution, or where its promise does not hold for this use);
            - ``band`` (``low``, ``moderate``, ``high``), ``prediction_set`` (list of short names): None where the
              image is out of distribution, or where the promises do not hold for this use;
            - ``ood_score`` (higher = more OOD), ``is_ood``, ``abstain``, ``reason`` (a code);
            - ``message``: the class by its long name, every class of a set of several, the uncertainty, the flag.

        Raises:
            TrustNotFittedError: ``trust`` was requested and is not fitted.
            InferenceError: ``inference`` is unknown, or needs dropout or pixels and there are none.
            NotFiniteError: an input or a logit is NaN or infinite.
            PriorError, DecisionError: ``prior`` is no distribution over the labels; no such rule, or it cannot hold.
            GroupError: groups for another number of images, or for a model without any.
            ExplanationError: there is no such heat map, or ``inference`` is not plain.
        """
        if trust:
            self.check_trust_is_fitted()
        inputs = {name: value.to(self.device) for name, value in inputs.items() if name != "labels"}
        seen = self.explained_pass(inputs, explain, inference) if explain else None
        output = self.infer(inputs, inference, samples=samples, seed=seed) if seen is None else seen.plain_output()
        withdrawn = self.why_withdrawn(inputs, inference, prior, prepared_as)
        options = {"prior": prior, "decision": decision, "withdrawn": withdrawn, "group": group}
        found = self.answer_in_words(output, trust=trust, **options)
        return found if seen is None else seen.added_to(found)

    def explanation_methods(self) -> list[str]:
        """The methods of :meth:`explain` that this model has; none where it reads no image."""
        return explanation_methods(self)

    def explain(
        self,
        features: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        /,
        *,
        target: Target | None = None,
        method: str = "grad_cam",
        **inputs: torch.Tensor | None,
    ) -> LesionExplanation:
        """Heat maps of the image regions that raised the logit of a class, in eval mode.

        Grad-CAM and HiResCAM explain the raw logit of the class, before temperature. The roll-out is the same for every
        class. The model is left as it was: no hook, no gradient, the same modes.

        Args:
            features: what the image processor returns, or ``pixel_values`` alone; or give them by name.
            target: the class, by index or short name, one for all or one per image; None = the predicted one.
            method: ``grad_cam`` (Selvaraju et al. 2017), ``hires_cam`` (Draelos and Carin 2020), both also on the
                tokens of a transformer; ``attention_rollout`` (Abnar and Zuidema 2020) for transformers only.
            **inputs: what the image processor returns: ``pixel_values`` (N, 3, H, W).

        Returns: heat maps (N, H, W), their spread over members, and the class that they explain.

        Raises:
            ExplanationError: no such method, or not for this model; no such class; no image, or none of numbers.
        """
        return explained_pass(self, features, inputs, method).explanation(target)

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
        """Save weights, configuration and code, also that of the pipeline; the base class describes the arguments.

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
        """Auto class -> name of the class that it loads; both are in the same file."""
        stem = cls.__name__.removesuffix("LesionModel").removesuffix("ForLesionClassification")
        return {"AutoModel": f"{stem}LesionModel", "AutoModelForImageClassification": f"{stem}ForLesionClassification"}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Give a value to what neither timm nor a checkpoint has set; transformers calls it module by module."""
        super()._init_weights(module)
        compute_constants: Any = getattr(module, "init_non_persistent_buffers", None)
        if compute_constants is not None:
            # Constants such as anti-aliasing filters are in no checkpoint: timm computes them again.
            compute_constants()
