"""The options of a fit of trust; wrong values are refused before anything is predicted."""

from __future__ import annotations

import pytest

from datasets_scripts.command import UserError
from hub_models import configuration_lesion, infer_lesion, ood_lesion
from trainers import score
from trainers.trust import options as names
from trainers.trust import temperature
from trainers.trust.options import TrustOptions


def test_the_names_are_those_of_the_code() -> None:
    assert names.INFERENCES == infer_lesion.INFERENCES
    assert names.METHODS == configuration_lesion.CONFORMAL_METHODS
    assert names.DECISIONS == score.DECISIONS == configuration_lesion.DECISION_RULES
    assert tuple(ood_lesion.DETECTORS) == names.DETECTORS
    assert names.KINDS == temperature.KINDS


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0.0}, "alpha 0.0: give a number between 0 and 1"),
        ({"alpha": 1.0}, "alpha 1.0: give"),
        ({"alpha": 1.5}, "alpha 1.5: give"),
        ({"alpha": float("nan")}, "alpha nan: give"),
        ({"acceptance": 1.0}, "acceptance 1.0: give"),
        ({"low_risk": -0.1}, "low_risk -0.1: give"),
        ({"low_risk": 0.3, "moderate_risk": 0.2}, "low_risk 0.3 is above moderate_risk 0.2"),
        ({"low_missed": 0.0}, "low_missed 0.0: give a share above 0, or 1 for no promise"),
        ({"moderate_missed": 1.1}, "moderate_missed 1.1: give a share"),
        ({"low_missed": 0.2}, "low_missed 0.2 is above moderate_missed 0.1"),
        ({"confidence": 1.0}, "confidence 1.0: give"),
        ({"max_set_size": 0}, "max_set_size 0: give at least 1"),
        ({"shifted_images": 0}, "shifted_images 0: give at least 1"),
        ({"seed": -1}, "seed -1: give 0 or more"),
        ({"temperature": "matrix"}, "temperature 'matrix': choose one of scalar, vector, bias_corrected"),
        ({"detector": "odin"}, "detector 'odin': choose one of auto, max_softmax"),
        ({"sets": "saps"}, "sets 'saps': choose one of lac, aps, raps"),
        ({"decision": "best"}, "decision 'best': choose one of most_probable, balanced, cost, sensitivity"),
        ({"sensitivity": 1.0}, "sensitivity 1.0: give a number between 0 and 1"),
        ({"inference": "guess"}, "inference 'guess': choose one of plain, tta"),
    ],
)
def test_options_that_no_fit_could_mean_are_named(options, says):
    with pytest.raises(UserError) as error:
        TrustOptions(**options)
    assert says in str(error.value)
