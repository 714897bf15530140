"""A finished model for another place: its trust fitted again on local lesions, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.command import UserError, read_json
from datasets_scripts.output import written_whole
from model_cards.card import read_report
from trainers.evaluation.decisions import decisions
from trainers.evaluation.promises import promise_table
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.predictions import Predictions, joined, read_predictions
from trainers.model_folder.data import Splits
from trainers.model_folder.evaluate import describe, evaluate_splits, read_ood
from trainers.model_folder.finish import SCHEMA_VERSION, read_of, save, write_all, write_ood
from trainers.model_folder.fit_trust import about
from trainers.model_folder.folder import as_folder, check_output, download_report, load
from trainers.model_folder.predict import predict_split, with_ood_scores
from trainers.model_folder.provenance import describe_dataset
from trainers.model_folder.source import class_names, fetch, parse_source
from trainers.model_folder.trust import predict_left_out
from trainers.trust.fit import promised
from trainers.trust.local import AUTO, LocalFit, refit, with_gate_scores
from trainers.trust.options import TrustOptions

# Images whose features are in memory at once.
AT_ONCE = 2048
NO_TEST = "all local lesions were fitted on; `--test_fraction` keeps some to evaluate the promises"


def recalibrate(
    source: str,
    splits: Splits,
    out: Path,
    options: TrustOptions,
    *,
    temperature: str = AUTO,
    test_fraction: float = 0.0,
    replicates: int = 1000,
    naming: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished model of ours with fitted trust: a folder, or ``ORG/NAME[@REVISION]`` on the Hub.
        splits: the local lesions: ``calibration``, which is fitted on, and perhaps ``test``.
        out: absent, or an empty folder.
        options: the promises that are asked for; see :func:`options_of`.
        temperature: one of ``local.REFITS``.
        test_fraction: the share of the lesions that are in ``test``, for the report.
        replicates: of the intervals.
        naming: new ``name`` and ``title``; those left out stay.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or one without a gate; the lesions support no promise.
    """
    check_output(out)
    with as_folder(source) as folder:
        model, processor, old = load(str(folder))
        trust = fitted_trust(model.config, source)
        before = measured_before(folder, old, trust)
        ood = read_ood(folder)
    inference = trust.get("fitted_for", {}).get("inference", "plain")
    splits = splits.in_order(model.config.labels)
    predictions = {split: _scored(model, processor, splits, split, inference) for split in splits.splits}
    left_out = predict_left_out(model, processor, splits, inference)
    ood |= {name: with_ood_scores(model, rows) for name, rows in left_out.items()}
    fitted = refit(
        predictions["calibration"], trust, options, date=datetime.now(UTC).date().isoformat(), temperature=temperature
    )
    model.set_trust(fitted.config, model.trust.as_dict())
    report = {"schema_version": SCHEMA_VERSION, **about(old, splits, describe_dataset(splits), options.seed)}
    report |= {
        "trust": fitted.config,
        "recalibrated": _recalibrated(report, predictions, trust, fitted, before, test_fraction, options.confidence),
    }
    predictions, ood = (
        {name: with_gate_scores(rows, fitted.config) for name, rows in found.items()} for found in (predictions, ood)
    )
    report["promise"] = promised(predictions["calibration"], fitted.config, options)
    report["test_reads"] = [read_of("test", "recalibration")] if "test" in predictions else []
    report |= evaluate_splits(predictions, fitted.config, replicates, report["provenance"]["seed"], None, ood)
    report["model"] |= dict(naming or {})
    with written_whole(out) as partial:
        save(model, processor, partial, report["model"]["weights_dtype"])
        write_all(predictions, partial, False)
        write_ood(ood, partial)
        describe(report, predictions, partial, ood)
    return report


def _recalibrated(
    report: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
    trust: Mapping[str, Any],
    fitted: LocalFit,
    before: Mapping[str, Any],
    test_fraction: float,
    confidence: float,
) -> dict[str, Any]:
    """The ``recalibrated`` section: both places, the promises asked for, and what so many lesions can promise."""
    here = _here(predictions, trust, fitted)
    return {
        **_counts(report["provenance"]["dataset"], test_fraction),
        "before": {name: value for name, value in before.items() if name != "rows"},
        "here": {"why": here["why"]},
        "comparison": _compared(before["rows"], here["before"], here["after"]),
        "promises": fitted.promises,
        "table": fitted.table,
        "confidence": confidence,
    }


def config_of(source: str) -> tuple[Any, dict[str, Any]]:
    """Config and report of a model of ours, without its weights: labels are compared before anything is loaded.

    Raises:
        UserError: there is no such model.
    """
    found = parse_source(source)
    folder, commit = fetch(found)
    config = SimpleNamespace(**{"id2label": None, "trust": {}, **read_json(folder / "config.json", finite=False)})
    config.labels = class_names(config, found.title)
    local = Path(found.location)
    return config, read_report(local) if local.is_dir() else download_report(found.location, commit or found.revision)


def fitted_trust(config: Any, source: str) -> dict[str, Any]:
    """A model's ``config.trust``.

    Raises:
        UserError: it has no gate.
    """
    trust = dict(config.trust or {})
    if "ood" not in trust or "temperature" not in trust:
        raise UserError(
            f"{source!r} has no fitted gate: fit its trust first, with python -m trainers.fit_trust on a labelled "
            "dataset"
        )
    return trust


def options_of(trust: Mapping[str, Any], given: Mapping[str, Any]) -> TrustOptions:
    """The promises that a model makes, changed by those that were given (None = not given).

    Raises:
        UserError: a value that no promise could mean; the model's own cost matrix would be lost.
    """
    own: dict[str, Any] = {"acceptance": trust["ood"].get("acceptance_asked", trust["ood"].get("acceptance"))}
    sets, bands = trust.get("conformal", {}), trust.get("bands", {})
    own |= {"sets": sets.get("method"), **{name: sets.get(name) for name in ("alpha", "class_conditional")}}
    for name in ("low", "moderate"):
        band = bands.get(name, {})
        own |= {f"{name}_risk": band.get("risk"), f"{name}_missed": band.get("missed_risk", 1.0 if band else None)}
        own["confidence"] = band.get("confidence")
    decision = trust.get("decision") or {}
    own["decision"] = decision.get("rule")
    own["sensitivity"] = (decision.get("sensitivity") or {}).get("target")
    own["max_set_size"] = trust.get("policy", {}).get("max_set_size")
    known = {option.name for option in fields(TrustOptions)}
    stated = {name: value for name, value in given.items() if name in known and value is not None}
    if own["decision"] == "cost" and "cost" not in stated and stated.get("decision", "cost") == "cost":
        raise UserError("the model decides by a cost matrix: give it again with --cost, or choose another --decision")
    return TrustOptions(**({name: value for name, value in own.items() if value is not None} | stated))


def measured_before(folder: Path, old: Mapping[str, Any], trust: Mapping[str, Any]) -> dict[str, Any]:
    """Where a model was calibrated before, and its promises measured there: ``rows`` is empty where none were."""
    dataset = old.get("provenance", {}).get("dataset", {})
    path = folder / "predictions_test.parquet"
    rows: list[dict[str, Any]] = []
    if "trust_evaluation" in old and path.is_file():
        test = read_predictions(path)
        rows = promise_table(old["trust_evaluation"], test, decisions(test, trust), trust)["rows"]
    lesions = dataset.get("splits", {}).get(trust["temperature"].get("split", "calibration"), {})
    return {
        "name": dataset.get("name", "not stated"),
        "config_name": dataset.get("config_name", ""),
        "sources": dataset.get("sources", []),
        "lesions": lesions.get("groups"),
        "rows": rows,
    }


def _here(predictions: Mapping[str, Predictions], trust: Mapping[str, Any], fitted: LocalFit) -> dict[str, Any]:
    """The earlier and the new promises on the local test lesions; why they were not measured where there are none."""
    if "test" not in predictions:
        return {"why": NO_TEST, "before": [], "after": []}
    found = {}
    for name, one in (("before", trust), ("after", fitted.config)):
        test = with_gate_scores(predictions["test"], one)
        made = decisions(test, one)
        section = trust_section(test, one, {}, replicates=1, seed=0, made=made)
        found[name] = promise_table(section, test, made, one)["rows"]
    return {"why": "", **found}


def _compared(*places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of three promise tables side by side: before there, before here, and now; None where one lacks it."""
    tables = [{row["promise"]: row for row in rows} for rows in places]
    names = dict.fromkeys(name for table in tables for name in table)
    there, before, after = tables
    return [
        {"promise": name, "there": there.get(name), "before": before.get(name), "after": after.get(name)}
        for name in names
    ]


def _counts(dataset: Mapping[str, Any], test_fraction: float) -> dict[str, Any]:
    nothing = {"n": 0, "groups": 0}
    parts = {split: dataset["splits"].get(split, nothing) for split in ("calibration", "test")}
    return {
        "dataset": dataset["name"],
        "test_fraction": test_fraction,
        **{split: {"images": part["n"], "lesions": part["groups"]} for split, part in parts.items()},
    }


def _scored(model: Any, processor: Any, splits: Splits, split: str, inference: str) -> Predictions:
    """Predictions of a split with the scores of the gate, without features, some images after others."""
    n, parts = len(splits.splits[split]), []
    with tqdm(total=n, desc=f"predict {split}", unit="image", disable=None) as bar:
        for start in range(0, n, AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, n))
            found = predict_split(model, processor, splits, split, rows=rows, inference=inference, progress=False)
            parts.append(replace(with_ood_scores(model, found), features=None, early=None))
            bar.update(len(rows))
    return joined(parts)
