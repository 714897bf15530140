"""From a forward pass to the whole answer in words: the one dictionary of pipeline, score, Space and docs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .conformal_lesion import sets_and_bands
from .explain_lesion import in_eval_mode
from .preprocess_lesion import SWITCHES
from .trust_lesion import (
    OTHER_INFERENCE,
    OTHER_PREPROCESSING,
    OTHER_PRIOR,
    TRUST_NOT_ASKED,
    TrustNotFittedError,
    check_prior,
    class_in_words,
    decide,
    entropy,
    shift_prior,
)

AT_RISK_GROUPS = ("malignant", "premalignant")
# plain: one forward pass. tta: the mean over flips and quarter turns. mc_dropout: one pass of the backbone, many of the
# head, with dropout on. mc_dropout_full: many passes of everything, for models with dropout inside.
INFERENCES = ("plain", "tta", "mc_dropout", "mc_dropout_full")
VIEWS_AT_ONCE = 64
UNTRUSTED = {
    "band": None,
    "prediction_set": None,
    "ood_score": None,
    "is_ood": None,
    "abstain": None,
    "reason": TRUST_NOT_ASKED,
    "message": "Nothing states how far this answer can be trusted: it was requested without trust.",
}


class InferenceError(ValueError):
    """A way of running the model that there is not, or that this model does not have."""


class TrustBuffers(nn.Module):
    """The fitted matrices of the gate: float32 buffers of the shapes that ``config.trust`` names."""

    def __init__(self, trust: Mapping[str, Any]) -> None:
        super().__init__()
        for name, shape in trust.get("ood", {}).get("buffers", {}).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32))

    def as_dict(self) -> dict[str, torch.Tensor]:
        """Name -> matrix."""
        return dict(self.named_buffers())


class LesionAnswers:
    """What a classifier adds to its forward pass; mixed into the shared base."""

    config: Any
    training: bool
    device: torch.device

    @torch.inference_mode()
    def predict(
        self,
        *,
        trust: bool = True,
        inference: str = "plain",
        prior: Mapping[str, float] | Sequence[float] | None = None,
        samples: int = 30,
        seed: int = 0,
        prepared_as: Mapping[str, Any] | None = None,
        **inputs: torch.Tensor,
    ) -> list[dict[str, Any]]:
        """Classify a batch in eval mode and say it in words.

        Args:
            trust: False answers without band, set, gate and verdict, also where none were fitted.
            inference: ``plain``, ``tta``, ``mc_dropout`` or ``mc_dropout_full``. Another than the one it was
                calibrated with withdraws band and set.
            prior: share of each class where the model is used, by name or in the order of the labels, positive, sum 1;
                re-weighs the probabilities and withdraws band and set. None = as where it was calibrated.
            samples: passes of MC dropout.
            seed: of the dropout masks.
            prepared_as: settings of the image processor that made the inputs, to compare with those of the calibration;
                None = only the size is compared.
            **inputs: what the image processor returns: ``pixel_values`` (N, 3, H, W).

        Returns:
            One dictionary an image:

            - ``predicted`` (short name), ``probabilities`` (short name -> [0, 1], sum 1);
            - ``p_malignant`` (sum over malignant and premalignant classes; None when the config knows no groups);
            - ``predictive_entropy`` (nats, in [0, log C]), and its parts ``aleatoric`` and ``epistemic`` (nats; None
              without members, views or samples);
            - ``band`` (``low``, ``moderate``, ``high``), ``prediction_set`` (list of short names): None where the
              image is out of distribution, or used in a way that nothing was promised for;
            - ``ood_score`` (higher = more OOD), ``is_ood``;
            - ``abstain``, ``reason`` (a code);
            - ``message``, the answer in words: the class by its long name, every class of a set of several, malignant
              ones first, and the uncertainty.

        Raises:
            TrustNotFittedError: ``trust`` was asked for and never fitted.
            InferenceError: ``inference`` is unknown, or needs dropout or pixels and there are none.
            NotFiniteError: an input or a logit is NaN or infinite: no class is named.
            PriorError: ``prior`` is no distribution over the labels.
        """
        if trust:
            self.check_trust_is_fitted()
        inputs = {name: value.to(self.device) for name, value in inputs.items() if name != "labels"}
        output = self.infer(inputs, inference, samples=samples, seed=seed)
        withdrawn = self.why_withdrawn(inputs, inference, prior, prepared_as)
        return self.answer_in_words(output, trust=trust, prior=prior, withdrawn=withdrawn)

    def check_trust_is_fitted(self) -> None:
        """Refuse to speak of trust that nobody measured.

        Raises:
            TrustNotFittedError: says how to fit it, and how to ask without it.
        """
        missing = [
            name for name in ("temperature", "prior", "ood", "conformal", "bands") if not self.config.trust.get(name)
        ]
        if missing:
            raise TrustNotFittedError(
                f"this model has no fitted {', '.join(missing)}: fit them with `python -m trainers.fit_trust`, or ask "
                "without: predict(..., trust=False)."
            )

    @torch.inference_mode()
    def infer(
        self, inputs: Mapping[str, torch.Tensor], inference: str = "plain", *, samples: int = 30, seed: int = 0
    ) -> Any:
        """Run the model in eval mode in one of the ways of ``INFERENCES``; views and samples come out as members.

        Args:
            inputs: ``forward``'s, on the model's device.
            inference: which way.
            samples: passes of MC dropout.
            seed: of the dropout masks.

        Returns:
            The model's output; raw logits (N, M', C) where there are several views or samples. Features and gate are
            those of the plain image.

        Raises:
            InferenceError: unknown, or not possible for this model.
        """
        model: Any = self
        with in_eval_mode(model):
            if inference == "plain":
                return model(**inputs, return_dict=True)
            return self._infer_several(inputs, inference, samples, seed)

    def _infer_several(self, inputs: Mapping[str, torch.Tensor], inference: str, samples: int, seed: int) -> Any:
        model: Any = self
        give_early, model.give_early = model.give_early, True
        try:
            output = model(**inputs, return_dict=True)
            if inference == "tta":
                raw = self._views(inputs, output.raw_logits)
            elif inference == "mc_dropout":
                raw = self._sample_head_only(output.features, samples, seed)
            elif inference == "mc_dropout_full":
                raw = self._sample_all(inputs, samples, seed)
            else:
                raise InferenceError(f"inference is {inference!r}; choose one of {', '.join(INFERENCES)}.")
            several = model.answer(output.features, raw, None, True, output.early)
            if self.config.trust.get("fitted_for", {}).get("inference", "plain") == "plain":
                several["ood_score"] = output.ood_score  # the gate's threshold was set for this one
            return several
        finally:
            model.give_early = give_early

    def sample_head(self, features: torch.Tensor, samples: int, seed: int) -> torch.Tensor:
        """MC dropout on the head alone: the backbone ran once, what follows it is drawn again and again.

        Gal and Ghahramani 2016, equation 6.

        Args:
            features: (N, D), as ``encode`` gives them.
            samples: S.
            seed: of the dropout masks; the caller's random numbers are left alone.

        Returns:
            (N, M, S, C) float32 raw logits; M = 1 for a single model.

        Raises:
            InferenceError: there is no dropout before the head, or no sample is asked for.
        """
        model: Any = self
        return self._with_dropout(lambda: model.classify(features), self._dropouts()[1], samples, seed)

    def can_sample_head(self) -> bool:
        """Whether MC dropout on the head alone is all of MC dropout: dropout after the backbone, none inside."""
        inside, after = self._dropouts()
        return bool(after) and not inside

    def _sample_head_only(self, features: torch.Tensor, samples: int, seed: int) -> torch.Tensor:
        inside = self._dropouts()[0]
        if inside:
            raise InferenceError(
                f"inference is 'mc_dropout', but this model has {len(inside)} dropout layers inside its backbone, "
                "which one pass of it cannot sample; choose 'mc_dropout_full'."
            )
        return self.sample_head(features, samples, seed).flatten(1, 2)

    def _sample_all(self, inputs: Mapping[str, torch.Tensor], samples: int, seed: int) -> torch.Tensor:
        model: Any = self
        inside, after = self._dropouts()
        passes = self._with_dropout(lambda: model(**inputs, return_dict=True).raw_logits, inside + after, samples, seed)
        return passes.flatten(1, 2)

    def _dropouts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The dropout layers inside the pretrained parts, and those after them."""
        model: Any = self
        inside = {id(module) for part in model.pretrained_parts() for module in part.modules()}
        dropouts = [module for module in model.modules() if is_dropout(module)]
        return [m for m in dropouts if id(m) in inside], [m for m in dropouts if id(m) not in inside]

    def _with_dropout(self, forward: Any, dropouts: list[nn.Module], samples: int, seed: int) -> torch.Tensor:
        """Raw logits (N, M, S, C) of S passes with these dropout layers on and all else in eval mode."""
        model: Any = self
        if samples < 1 or not dropouts:
            raise InferenceError(
                f"{samples} samples of a model that has {len(dropouts)} layers of dropout to sample; give at least 1 "
                "of each."
            )
        devices = [self.device] if self.device.type == "cuda" else []
        with in_eval_mode(model), torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            try:
                for module in dropouts:
                    module.train()
                passes = [forward().float() for _ in range(samples)]
            finally:
                for module in dropouts:
                    module.eval()
        return torch.stack([logits[:, None] if logits.ndim == 2 else logits for logits in passes], dim=2)

    def _views(self, inputs: Mapping[str, torch.Tensor], plain: torch.Tensor) -> torch.Tensor:
        """Raw logits (N, views x M, C) of all flips and quarter turns (of an oblong image: half turns).

        Args:
            inputs: ``forward``'s.
            plain: raw logits of the image as it is, the first of the views.
        """
        model: Any = self
        pixels = inputs.get("pixel_values")
        if pixels is None or "pixel_values" not in model.input_names:
            raise InferenceError("inference is 'tta', but this model looks at no image; choose 'plain'.")
        square = pixels.shape[-1] == pixels.shape[-2]
        turned = [torch.rot90(pixels, turns, (2, 3)) for turns in ((0, 1, 2, 3) if square else (0, 2))]
        views = [view for image in turned for view in (image, image.flip(3))]
        at_once = max(1, VIEWS_AT_ONCE // len(pixels))
        rows = [plain]
        for start in range(1, len(views), at_once):
            part = views[start : start + at_once]
            repeated = {name: value.repeat(len(part), *[1] * (value.ndim - 1)) for name, value in inputs.items()}
            logits = model(**{**repeated, "pixel_values": torch.cat(part)}, return_dict=True).raw_logits
            rows.extend(logits.chunk(len(part)))
        return torch.cat([logits[:, None] if logits.ndim == 2 else logits for logits in rows], dim=1)

    def why_withdrawn(
        self, inputs: Mapping[str, torch.Tensor], inference: str, prior: Any, prepared_as: Mapping[str, Any] | None
    ) -> str | None:
        """Why band and set do not hold for this use; None when they do."""
        fitted_for = self.config.trust.get("fitted_for", {})
        settings = fitted_for.get("preprocessing") or {}
        pixels = inputs.get("pixel_values")
        size = self.config.image_size
        # A switch that was not known when trust was fitted was off.
        compared = {*settings, *SWITCHES} if settings and prepared_as is not None else set()
        if any(((prepared_as or {}).get(name) or False) != (settings.get(name) or False) for name in compared):
            return OTHER_PREPROCESSING
        if pixels is not None and pixels.ndim == 4 and tuple(pixels.shape[2:]) != (size, size):
            return OTHER_PREPROCESSING
        if inference != fitted_for.get("inference", "plain"):
            return OTHER_INFERENCE
        return None if prior is None else OTHER_PRIOR

    def answer_in_words(
        self,
        output: Any,
        *,
        trust: bool = True,
        prior: Mapping[str, float] | Sequence[float] | None = None,
        withdrawn: str | None = None,
    ) -> list[dict[str, Any]]:
        """Say in words what a forward pass in eval mode gave; :meth:`predict` describes the result.

        Args:
            output: of ``forward`` or :meth:`infer`.
            trust: as in :meth:`predict`.
            prior: as in :meth:`predict`.
            withdrawn: why there is no band and no set, a key of ``WITHDRAWN``; None = there are.

        Raises:
            TrustNotFittedError: trust was asked for and never fitted.
            PriorError: ``prior`` is no distribution, or it is not known at which one the model was calibrated.
        """
        log_probs = functional.log_softmax(output.logits.double(), dim=-1).cpu()
        parts = {name: output[name] for name in ("aleatoric", "epistemic") if output.get(name) is not None}
        if prior is not None:
            self.check_prior_is_known()
            calibrated_at = check_prior(self.config.trust["prior"]["value"], self.config.labels)
            log_probs = shift_prior(log_probs, calibrated_at, check_prior(prior, self.config.labels))
            parts = {}  # the entropy is now another one, and its parts are of the members before the shift
            withdrawn = withdrawn or OTHER_PRIOR
        answers = [self._probabilities(row) for row in log_probs]
        for name in ("aleatoric", "epistemic"):
            values = parts[name].tolist() if name in parts else [None] * len(answers)
            for answer, value in zip(answers, values, strict=True):
                answer[name] = value
        verdicts = self._verdicts(output, log_probs.exp(), withdrawn) if trust else self._untrusted(answers)
        return [answer | verdict for answer, verdict in zip(answers, verdicts, strict=True)]

    def check_prior_is_known(self) -> None:
        """Raises TrustNotFittedError where it was never measured how frequent the classes were in calibration."""
        if not self.config.trust.get("prior"):
            raise TrustNotFittedError(
                "a prior was given, but how frequent the classes were where this model was calibrated is not known: "
                "fit it with `python -m trainers.fit_trust`."
            )

    def _probabilities(self, log_probs: torch.Tensor) -> dict[str, Any]:
        """Log probabilities (C,) of one image -> the part of the answer that needs no trust."""
        labels, groups = self.config.labels, self.config.label_groups
        probabilities = dict(zip(labels, log_probs.exp().tolist(), strict=True))
        at_risk = [value for label, value in probabilities.items() if groups.get(label) in AT_RISK_GROUPS]
        return {
            "predicted": labels[int(log_probs.argmax())],
            "probabilities": probabilities,
            "p_malignant": sum(at_risk) if groups else None,
            "predictive_entropy": float(entropy(log_probs)),
        }

    def _untrusted(self, answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The part of each answer about trust where it was not requested."""
        config = self.config
        named = [class_in_words(answer["predicted"], config.label_names, config.label_groups) for answer in answers]
        return [UNTRUSTED | {"message": f"{name}. {UNTRUSTED['message']}"} for name in named]

    def _verdicts(self, output: Any, probs: torch.Tensor, withdrawn: str | None) -> list[dict[str, Any]]:
        """Gate, set, band and verdict of each image, from probabilities (N, C)."""
        self.check_trust_is_fitted()
        trust, labels = self.config.trust, self.config.labels
        members, _, bands = sets_and_bands(probs, trust)
        verdicts = []
        for row, score in enumerate(output.ood_score.double().tolist()):
            is_ood = not score <= trust["ood"]["threshold"]  # a score that is no number is no reason to trust
            nothing = is_ood or withdrawn is not None
            names = [label for label, inside in zip(labels, members[row].tolist(), strict=True) if inside]
            band, prediction_set = (None, None) if nothing else (bands[row], names)
            verdict = decide(
                trust,
                labels[int(probs[row].argmax())],
                is_ood=is_ood,
                band=band,
                prediction_set=prediction_set,
                withdrawn=withdrawn,
                long_names=self.config.label_names,
                groups=self.config.label_groups,
            )
            verdicts.append(
                {
                    "band": band,
                    "prediction_set": prediction_set,
                    "ood_score": score if math.isfinite(score) else None,  # NaN is no JSON; the gate declines it
                    "is_ood": is_ood,
                    "abstain": verdict.abstain,
                    "reason": verdict.reason,
                    "message": verdict.message,
                }
            )
        return verdicts


def is_dropout(module: nn.Module) -> bool:
    """Whether a layer drops something at random in train mode: dropout of any shape, or stochastic depth."""
    rate = (
        getattr(module, "p", None)
        if isinstance(module, nn.modules.dropout._DropoutNd)
        else getattr(module, "drop_prob", None)
    )
    return isinstance(rate, (int, float)) and rate > 0
