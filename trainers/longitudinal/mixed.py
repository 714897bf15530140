"""The mixed models that stand beside the default: a random intercept as published, and random treatment effects.

Fitted by restricted maximum likelihood with statsmodels (Laird and Ware, Biometrics 38:963, 1982). A fit is believed
only where it has converged, its likelihood is finite, its random effects are not singular, and its effects are those of
generalised least squares at its own variances, computed here again: statsmodels may call a fit converged at a
likelihood of infinity, or with a residual of 0, and return a number that means nothing.

The standard errors are those of generalised least squares, too, as lme4 and nlme give them. statsmodels' own, from the
observed information of effects and variances together, agree in balanced studies and go astray near variances of 0.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from trainers.longitudinal.study import Study

# In turn, until one is sound and the likelihood curves down around it; else the best of those that are sound. The
# second and third need no gradient and so reach variances near 0, where the first gets stuck.
OPTIMIZERS = ("lbfgs", "powell", "nm")
SMALLEST_RESIDUAL = 1e-6  # variance of a day, of the variance of severity, below which there is none
FARTHEST = 0.02  # standard errors that effects may lie off generalised least squares
SMALLEST_START = 0.02  # variance of a random effect to start from, in units of a day's variance
SMALLEST_SUM = 1e-6  # of squares, as a share of the whole, below which sums over days round too much
SINGULAR = (
    1e-10  # eigenvalue of the random effects' covariance, in days' variance, below which MixedLM calls it singular
)


@dataclass(frozen=True)
class MixedFit:
    """A fitted mixed model.

    Attributes:
        effects: (K - 1,) of each treatment against the baseline, in points.
        standard_errors: (K - 1,) in points.
        sd: standard deviations of the random effects by name (``level`` and each treatment), in points.
        residual_sd: of a day, in points.
        log_likelihood: restricted.
        optimizer: that found it.
        notes: what statsmodels remarked on the way.
        responses: (P, K - 1) predicted effect of each patient (BLUP), in points; None with a random intercept alone.
        residuals: (N,) severity minus what the model predicts for the patient, in points.
        fitted: (N,) that prediction.
    """

    effects: np.ndarray
    standard_errors: np.ndarray
    sd: dict[str, float]
    residual_sd: float
    log_likelihood: float
    optimizer: str
    notes: list[str] = field(default_factory=list)
    responses: np.ndarray | None = None
    residuals: np.ndarray = field(default_factory=lambda: np.empty(0))
    fitted: np.ndarray = field(default_factory=lambda: np.empty(0))


class NotConvergedError(ValueError):
    """Raised when no optimizer reached a fit that can be used; the message states what each of them did."""


class SummedMixedLM(MixedLM):
    """MixedLM whose profile likelihood takes sums over each patient's days, formed once.

    With ``w = I + C Z'Z`` of a patient, ``V = I + Z C Z'`` has ``V^-1 = I - Z w^-1 C Z'`` and ``det V = det w``.
    Severity is taken less its least squares fit: fewer digits are lost, the likelihood is the same. Where C is singular
    or no day differs from its prediction, MixedLM's own likelihood decides.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._plain = np.linalg.lstsq(self.exog, self.endog, rcond=None)[0]
        given = np.column_stack([self.exog, self.endog - self.exog @ self._plain])
        rows = [self.row_indices[name] for name in self.group_labels]
        self._gram = np.stack([random.T @ random for random in self.exog_re_li])
        self._moment = np.stack([random.T @ given[own] for random, own in zip(self.exog_re_li, rows, strict=True)])
        self._whole = given.T @ given

    def loglike(self, params: Any, profile_fe: bool = True) -> float:
        """The restricted log-likelihood, the scale profiled out, as MixedLM gives it."""
        if type(params) is not MixedLMParams:
            params = MixedLMParams.from_packed(params, self.k_fe, self.k_re, self.use_sqrt, has_fe=False)
        if np.linalg.eigvalsh(params.cov_re).min() < SINGULAR:
            return float(super().loglike(params, profile_fe))
        inner = np.eye(self.k_re) + params.cov_re @ self._gram
        solved = np.linalg.solve(inner, params.cov_re @ self._moment)
        sums = self._whole - np.einsum("pij,pik->jk", self._moment, solved)
        design, target = sums[:-1, :-1], sums[:-1, -1]
        less = self._plain - params.fe_params if not profile_fe else -np.linalg.solve(design, target)
        squares = float(sums[-1, -1] + 2 * less @ target + less @ design @ less)
        if not squares > SMALLEST_SUM * self._whole[-1, -1]:
            return float(super().loglike(params, profile_fe))
        freedom = self.n_totobs - self.k_fe
        determinants = np.linalg.slogdet(inner)[1].sum() + np.linalg.slogdet(design)[1]
        return float(-(determinants + freedom * (np.log(squares) + np.log(2 * np.pi / freedom) + 1)) / 2)


def fit_mixed(study: Study, random_effects: bool) -> MixedFit:
    """Fit a linear mixed model of severity on treatment.

    Args:
        study: of P patients and K treatments.
        random_effects: besides the intercept, let every treatment's effect differ between patients, all correlated.

    Raises:
        NotConvergedError: no fit that can be believed; there is no number then.
    """
    design = np.column_stack([np.ones(len(study.severity)), np.eye(len(study.treatments))[study.treatment][:, 1:]])
    exog_re = design if random_effects else design[:, :1]
    sound: list[MixedFit] = []
    tried: dict[str, list[str]] = {}
    for optimizer in OPTIMIZERS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model = SummedMixedLM(study.severity, design, groups=study.patient, exog_re=exog_re)
                start = MixedLMParams.from_components(*_start(study, random_effects))
                result = model.fit(reml=True, method=[optimizer], start_params=start, maxiter=500)
                trouble = _trouble(result, study, caught)
                if not trouble:
                    sound.append(_as_fit(result, study, random_effects, optimizer, caught))
                    if not any("Hessian" in note for note in sound[-1].notes):
                        break
            except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
                trouble = str(error).rstrip(".") or type(error).__name__
        tried.setdefault(trouble, []).append(optimizer)
    if not sound:
        raise NotConvergedError("; ".join(f"{' and '.join(names)}: {trouble}" for trouble, names in tried.items()))
    return max(sound, key=lambda fit: fit.log_likelihood)


def _start(study: Study, random_effects: bool) -> tuple[np.ndarray, np.ndarray]:
    """Fixed effects (K,) and covariance of random effects in units of a day's variance, by moments.

    From statsmodels' own start, the identity, lbfgs fails on most studies whose patients respond alike.
    """
    means, counts = study.cell_means(), study.cell_counts()
    freedom = max(len(study.severity) - int((counts > 0).sum()), 1)
    day = max(float((study.residuals() ** 2).sum()) / freedom, 1e-12)
    columns = [means[:, 0], *(means[:, index] - means[:, 0] for index in range(1, means.shape[1]))]
    fixed: list[float] = []
    variances: list[float] = []
    for index, column in enumerate(columns):
        known = column[np.isfinite(column)]
        whole = float(study.severity[study.treatment == index].mean())
        fixed.append(float(known.mean()) if len(known) else whole - (fixed[0] if index else 0.0))
        between = float(known.var(ddof=1)) if len(known) > 1 else day
        variances.append(max(between / day, SMALLEST_START))
    kept = variances if random_effects else variances[:1]
    return np.array(fixed), np.diag(kept)


def _trouble(result: Any, study: Study, caught: list[warnings.WarningMessage]) -> str:
    """Why a fit cannot be believed; empty where it can."""
    if not result.converged:
        return "did not converge"
    if not math.isfinite(float(result.llf)):
        return "its likelihood is not finite"
    if any(issubclass(warning.category, SingularMatrixWarning) for warning in caught):
        return "its random effects are singular"
    if not result.scale >= SMALLEST_RESIDUAL * study.severity.var():
        return "no day differs from what it predicts, so its variances are unknown"
    effects, errors = _least_squares(result)
    if not (np.all(np.isfinite(errors)) and np.all(errors > 0)):
        return "its standard errors are not finite"
    off = float(np.abs((effects - np.asarray(result.fe_params)) / errors).max())
    return "" if off <= FARTHEST else f"its effects are {off:.2g} standard errors off generalised least squares"


def _least_squares(result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fixed effects (K,) and their standard errors (K,) by generalised least squares at the fitted variances.

    With ``V = Z C Z' + s^2 I`` of a patient, ``V^-1 = (I - Z (s^2 I + C Z'Z)^-1 C Z') / s^2``, which holds for any C.
    """
    scale, cov = float(result.scale), np.asarray(result.cov_re)
    model, size = result.model, len(cov)
    gram, moment = 0.0, 0.0
    for design, random, target in zip(model.exog_li, model.exog_re_li, model.endog_li, strict=True):
        inner = np.linalg.solve(scale * np.eye(size) + cov @ random.T @ random, cov @ random.T)
        weighted = (design - random @ (inner @ design)) / scale
        gram, moment = gram + weighted.T @ design, moment + weighted.T @ target
    covariance = np.linalg.inv(gram)
    return covariance @ moment, np.sqrt(np.diag(covariance))


def _as_fit(
    result: Any, study: Study, random_effects: bool, optimizer: str, caught: list[warnings.WarningMessage]
) -> MixedFit:
    effects = np.asarray(result.fe_params)[1:]
    predicted = np.array([np.asarray(result.random_effects[index]) for index in range(len(study.patients))])
    names = ["level", *study.treatments[1:]] if random_effects else ["level"]
    fitted = np.asarray(result.fittedvalues)
    return MixedFit(
        effects=effects,
        standard_errors=_least_squares(result)[1][1:],
        sd=dict(zip(names, np.sqrt(np.diag(np.asarray(result.cov_re))).tolist(), strict=True)),
        residual_sd=math.sqrt(float(result.scale)),
        log_likelihood=float(result.llf),
        optimizer=optimizer,
        notes=sorted({str(warning.message).split("\n")[0].rstrip(".") for warning in caught}),
        responses=effects + predicted[:, 1:] if random_effects else None,
        residuals=study.severity - fitted,
        fitted=fitted,
    )
