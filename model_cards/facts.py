"""What kind of model a report speaks of: ours or of others, tested or not, with fitted trust or without.

The card's words follow from it, so that it never says of an imported model that it was trained here, or of a model
without a test split that it was tested.
"""

from __future__ import annotations

import re
from typing import Any

from model_cards.report_view import MissingNumberError, ReportNode, given, raw
from model_cards.sources import BUILT, all_drawn, any_drawn, known_limits

# What the fit of prediction sets calls the threshold that is nobody's own.
ALL_CLASSES = "all classes"
MEMBERS = re.compile(r"(\d+) x ")


def only_imported(report: ReportNode) -> bool:
    """Whether the model came from elsewhere and nothing was evaluated here: its card then shows no result."""
    return "imported" in report and "evaluation" not in report


def is_fitted(report: ReportNode) -> bool:
    """Whether the model can say how far an answer of it can be trusted."""
    return "trust" in report and "conformal" in report["trust"]


def facts_of(report: ReportNode) -> dict[str, Any]:
    """Facts about a report by which the templates choose their words.

    Returns:
        - ``split``: whose numbers the card shows: ``test``, or the first that there is; ``tested``: it is ``test``;
        - ``imported``: the weights are of others; ``elsewhere``: it was not trained on the dataset it is evaluated on;
        - ``members``: of an ensemble, 0 for a single model;
        - ``fitted``: trust was fitted; ``evaluated``: it was evaluated on ``split``;
        - ``chosen_on``: the split that chose the epoch, ``""`` where none of these splits did;
        - ``promise``: whether anything is promised (``possible``), and what it would take;
        - ``without_promise``: see :func:`without_promise`;
        - what :func:`groups_known` gives;
        - ``shared_sources``: see :func:`shared_sources`;
        - ``drawn``: whether ``any`` and whether ``all`` images are phantoms; ``source_limits``: known of the sources.

    Raises:
        MissingNumberError: there is no evaluation, or none of any split.
    """
    splits = list(report["evaluation"])
    if not splits:
        raise MissingNumberError("evaluation.test")
    imported = "imported" in report
    elsewhere = imported or "trained_on" in report
    sources = sources_of(report)
    return {
        "split": "test" if "test" in splits else splits[0],
        "tested": "test" in splits,
        "imported": imported,
        "elsewhere": elsewhere,
        "members": count_members(report),
        "fitted": is_fitted(report),
        "evaluated": "trust_evaluation" in report,
        "chosen_on": chosen_on(report),
        "promise": raw(report["promise"]) if "promise" in report else {"possible": True},
        **groups_known(report),
        "without_promise": without_promise(report) if is_fitted(report) else {},
        "shared_sources": shared_sources(report),
        "drawn": {"any": any_drawn(sources), "all": all_drawn(sources)},
        "source_limits": known_limits(sources),
    }


def chosen_on(report: ReportNode) -> str:
    """The split of the report's dataset that chose the epoch of a model, or of any member of it; "" where none did."""
    if "training" not in report or "imported" in report or "trained_on" in report:
        return ""
    training = report["training"]
    runs = list(training["members"]) if "members" in training else [training]
    return "validation" if any("validation" in str(run["kept_because"]) for run in runs) else ""


def groups_known(report: ReportNode) -> dict[str, Any]:
    """What says which images show one lesion.

    Returns:
        - ``no_ids``: nothing does, so that each image counts as a lesion of its own (older reports do not say: False);
        - ``without_id``: split -> images that lack such an id where others have one, only where there are some;
        - ``id_column``: the column, ``""`` where nothing or nobody says.
    """
    dataset = report["provenance"]["dataset"] if "provenance" in report else report
    unsaid: dict[str, Any] = {"column": "group_id", "missing": {}}
    found: dict[str, Any] = raw(dataset["group_ids"]) if "group_ids" in dataset else unsaid
    missing = {split: n for split, n in found["missing"].items() if n}
    no_ids = found["column"] is None
    return {"no_ids": no_ids, "without_id": {} if no_ids else missing, "id_column": found["column"] or ""}


def counted_as_one(dataset: ReportNode) -> str:
    """One sentence on which images count as one lesion, as far as a dataset's section says it."""
    found = groups_known(dataset)
    if found["no_ids"]:
        return (
            'There are no lesion or patient ids: each image counts as a lesion of its own, and "lesion" on this card '
            "means one image. Duplicates were not searched for."
        )
    built = found["id_column"] == "group_id" and all(str(name).lower() in BUILT for name in dataset["sources"])
    if "group_ids" not in dataset or built:
        return "Images of one lesion, and near-duplicates of one image, count as one lesion here."
    lacking = ", ".join(f"{n} of {split}" for split, n in found["without_id"].items())
    alone = f" An image without one counts as a lesion of its own: {lacking}." if lacking else ""
    return (
        f"Images with the same `{found['id_column']}` count as one lesion here.{alone} Duplicates under two ids were "
        "not searched for."
    )


def count_members(report: ReportNode) -> int:
    """Members of an ensemble, 0 for a single model; of an imported one its backbones say it: ``5 x resnet50``."""
    if "imported" in report:
        return sum(int(amount) for amount in MEMBERS.findall(str(report["model"]["backbone"])))
    training = report["training"]
    return len(training["members"]) if "members" in training else 0


def sources_of(report: ReportNode) -> list[str]:
    """Where the images come from, of training and of evaluation, each once."""
    places = [report["provenance"]["dataset"]["sources"]] if "evaluation" in report else []
    places += [report[key]["sources"] for key in ("trained_on", "imported") if key in report]
    return list(dict.fromkeys(str(name) for place in places for name in raw(place)))


def without_promise(report: ReportNode) -> dict[str, list[str]]:
    """Classes about which the prediction sets promise less than about the others.

    Returns:
        ``always``: no threshold could be fitted, so that every set holds them; and where each class has a threshold of
        its own ``pooled``: they share one; ``alone``: they take that of all classes; ``malignant``: those among these
        two that are malignant or premalignant.
    """
    conformal = report["trust"]["conformal"]
    names = [str(label["name"]) for label in report["model"]["labels"]]
    without = [str(name) for name in conformal["without_own_promise"]] if raw(conformal["class_conditional"]) else []
    group = {name: str(conformal["groups"][name]) for name in without}
    at_risk = {str(name) for name in conformal["malignant_without_own_promise"]}
    return {
        "always": [name for index, name in enumerate(names) if not given(conformal["qhat"][index])],
        "pooled": [name for name in without if group[name] != ALL_CLASSES],
        "alone": [name for name in without if group[name] == ALL_CLASSES],
        "malignant": [name for name in without if name in at_risk],
    }


def shared_sources(report: ReportNode) -> list[str]:
    """Sources of both training and evaluation of a model that was trained elsewhere: its test lesions may be known."""
    evaluated = [str(name) for name in report["provenance"]["dataset"]["sources"]]
    trained = [name for key in ("trained_on", "imported") if key in report for name in raw(report[key]["sources"])]
    return [name for name in evaluated if name.lower() in {str(other).lower() for other in trained}]
