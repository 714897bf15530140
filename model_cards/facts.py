"""What kind of model a report describes: trained here or imported, tested or not, with fitted trust or without.

The words of the card follow from it: it never states that an imported model was trained here, or that a model without
a test split was tested.
"""

from __future__ import annotations

import re
from typing import Any

from model_cards.report_view import MissingNumberError, ReportNode, given, raw

# Keyed by the lower-case name that a dataset's ``source`` column and the report's ``sources`` carry.
SOURCE_LIMITS = {
    "ham10000": (
        "HAM10000 was collected at two places, a university clinic in Vienna (Austria) and a skin cancer practice in "
        "Queensland (Australia). Skin tone was not recorded, and both places see mostly people with light skin. More "
        "than half of the lesions were confirmed by histology; the others by follow-up, expert consensus or confocal "
        "microscopy. The images were chosen and cropped by hand: sharper, better centred "
        "and with far more disease in them than everyday practice has."
    ),
    "dermnet": (
        "The DermNet images are close-up photographs and not dermoscopy, and one class comes from them alone. A "
        "model can tell that class by the kind of image. Evaluate it by the results without that source."
    ),
    "phantom": (
        "The phantom images are drawn by a program. They contain no skin and no disease. Nothing measured on them "
        "says anything about a person."
    ),
}
DRAWN = "phantom"
# Sources of the suite's builders, which look for near-duplicates, and give them one ``group_id``.
BUILT = ("class folders", "dermnet", "ham10000", "isic 2017 challenge", "isic archive", DRAWN)
# The name of the threshold that classes without one of their own share.
ALL_CLASSES = "all classes"
MEMBERS = re.compile(r"(\d+) x ")


def only_imported(report: ReportNode) -> bool:
    """Whether the model came from elsewhere and nothing was evaluated here: its card then shows no result."""
    return "imported" in report and "evaluation" not in report


def is_fitted(report: ReportNode) -> bool:
    """Whether trust was fitted: the model has gate, sets and bands."""
    return "trust" in report and "conformal" in report["trust"]


def facts_of(report: ReportNode) -> dict[str, Any]:
    """What the templates choose their words by.

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
    """How images of one lesion are known.

    Returns:
        - ``no_ids``: they are not, so that each image counts as a lesion of its own (False where an older report does
          not state it);
        - ``without_id``: split -> images that lack such an id where others have one, only where there are some;
        - ``id_column``: the column, ``""`` where there is none or it is not stated.
    """
    dataset = report["provenance"]["dataset"] if "provenance" in report else report
    not_given: dict[str, Any] = {"column": "group_id", "missing": {}}
    found: dict[str, Any] = raw(dataset["group_ids"]) if "group_ids" in dataset else not_given
    missing = {split: n for split, n in found["missing"].items() if n}
    no_ids = found["column"] is None
    return {"no_ids": no_ids, "without_id": {} if no_ids else missing, "id_column": found["column"] or ""}


def counted_as_one(dataset: ReportNode) -> str:
    """One sentence on which images count as one lesion, as far as the dataset's section states it."""
    found = groups_known(dataset)
    merged = "group_ids" in dataset and "duplicates" in dataset["group_ids"]
    if found["no_ids"]:
        return (
            'There are no lesion or patient ids: each image counts as a lesion of its own, and "lesion" on this card '
            f"means one image{' with its near-duplicates' if merged else '. Duplicates were not searched for'}."
        )
    if merged:
        return (
            f"Images with the same `{found['id_column']}`, and near-duplicates of one image, count as one lesion here: "
            '"lesion" on this card means such a group.'
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
    """Members of an ensemble, 0 for a single model; of an imported one from its backbones: ``5 x resnet50``."""
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


def known_limits(sources: list[str]) -> list[str]:
    """One paragraph for each of the named sources that we know something about."""
    return [SOURCE_LIMITS[name.lower()] for name in sources if name.lower() in SOURCE_LIMITS]


def any_drawn(sources: list[str]) -> bool:
    """Whether some of the images were drawn by a program."""
    return any(name.lower() == DRAWN for name in sources)


def all_drawn(sources: list[str]) -> bool:
    """Whether every image was drawn by a program."""
    return bool(sources) and all(name.lower() == DRAWN for name in sources)
