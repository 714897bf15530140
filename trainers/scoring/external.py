"""With labels, the report that training writes: predictions file, metrics with intervals, tables, figures, a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.sources.tables import known
from model_cards.manifest import write_text
from model_cards.report_view import cell
from trainers.evaluation.abstention import LEAST_LESIONS
from trainers.evaluation.comparison_tables import title
from trainers.evaluation.decisions import decisions
from trainers.evaluation.figures.charts import draw_all
from trainers.evaluation.figures.trust import draw_trust
from trainers.evaluation.pooling import PLACES
from trainers.evaluation.promises import promise_lines, promise_table
from trainers.evaluation.report import NO_MALIGNANT_CLASS
from trainers.evaluation.tables import write_tables
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.number import Number
from trainers.metrics.predictions import ESTIMATED_TONE, MALIGNANCY, Predictions, write_predictions
from trainers.model_folder.evaluate import evaluate_splits, write_report
from trainers.model_folder.source import printable
from trainers.scoring.answers import PROBABILITY, read_part
from trainers.scoring.files import Row, read_listing
from trainers.scoring.labels import LABEL, Classes, subgroup_columns
from trainers.scoring.skin_tone import CONVENTIONS, agreement, estimated_tones
from trainers.scoring.workers import Work

SPLIT = "external"
PREDICTIONS = f"predictions_{SPLIT}.parquet"
SCHEMA_VERSION = 1


def gather(
    work: Work, classes: Classes, title: str, from_answers: bool, promised: bool, tones: bool = False
) -> Predictions:
    """The labelled images that were read, as a predictions file holds them.

    Args:
        work: a run whose parts are all there.
        classes: that the labels are evaluated on.
        title: of the model, for the message.
        from_answers: take the probabilities of the answers, as one member at temperature 1; otherwise the raw logits.
        promised: keep the OOD scores, since sets and bands hold for these answers.
        tones: estimate the skin tone from each image, which is read again for it.

    Raises:
        UserError: no labelled image could be read, or a logit is NaN or infinite.
    """
    ids, paths, rows, logits, features, gate = [], [], [], [], [], []
    names = [f"{PROBABILITY}{label}" for label in classes.labels]
    listed = read_listing(work.listing)
    for part in range(work.count):
        for answer, one in zip(_read(work.parts, part, names), listed, strict=False):
            if one.labels is None or answer["error"] is not None:
                continue
            ids.append(printable(one.image))
            paths.append(work.root / one.image)
            rows.append({**(one.metadata or {}), **one.labels})
            if from_answers:
                logits.append(np.log(np.maximum([[answer[name] for name in names]], 1e-300)))
            else:
                logits.append(answer["logits"].reshape(-1, len(classes.labels)))
            features.append(answer["features"])
            gate.append(answer["ood_score"])
    if not ids:
        raise UserError("no image that has a label could be read: nothing can be evaluated; answers.csv would say why")
    lesions = [own(row, "lesion_id", image) for row, image in zip(rows, ids, strict=True)]
    groups = [own(row, "group_id", lesion) for row, lesion in zip(rows, lesions, strict=True)]
    estimated = {ESTIMATED_TONE: estimated_tones(paths)} if tones else {}
    has_features = not from_answers and all(one is not None for one in features)
    try:
        found = Predictions(
            image_id=np.array(ids, dtype=object),
            lesion_id=np.array(lesions, dtype=object),
            group_id=np.array(groups, dtype=object),
            label=np.zeros(len(ids), dtype=np.int64),
            logits=np.stack(logits).astype(np.float64),
            labels=classes.labels,
            label_names=classes.long_names,
            label_groups=classes.groups,
            split=SPLIT,
            dataset=work.root.resolve().name,
            columns=subgroup_columns(rows) | estimated,
            features=np.stack(features).astype(np.float32) if has_features else None,
            ood_score=np.array(gate, dtype=np.float64) if promised else None,
        )
    except UserError as error:
        raise UserError(f"--model {title}: {error}") from error
    found = found.on_malignancy() if classes.on_malignancy else found
    return replace(found, label=np.array([classes.index(row[LABEL]) for row in rows], dtype=np.int64))


def _read(parts: Path, part: int, names: list[str]) -> Iterator[dict[str, Any]]:
    table = read_part(parts, part, ["error", "ood_score", "logits", "features", *names])
    columns = {name: table[name].to_pylist() for name in ("error", "ood_score", *names)}
    for row in range(len(table)):
        arrays = {
            name: None if not table[name][row].is_valid else table[name][row].values.to_numpy(zero_copy_only=False)
            for name in ("logits", "features")
        }
        yield {**{name: values[row] for name, values in columns.items()}, **arrays}


def own(row: Row, column: str, fallback: str) -> str:
    """A row's lesion or group; its own where it is not known: two unknowns are not the same lesion."""
    value = row.get(column, "")
    return fallback if known(value) == "unknown" else value


def evaluated(rows: Predictions, trust: dict[str, Any], replicates: int, seed: int) -> dict[str, Any]:
    """The sections that training evaluates its splits by, of these images.

    Args:
        rows: predictions of the split ``SPLIT``; with ``ood_score`` where promises hold that can be evaluated.
        trust: what was fitted; at least a temperature.
        replicates: bootstrap resamples.
        seed: of the resamples.
    """
    sections = evaluate_splits({SPLIT: rows}, trust, replicates, seed)
    if rows.ood_score is not None:
        made = decisions(rows, trust)
        section = trust_section(rows, trust, {}, replicates=replicates, seed=seed, made=made)
        sections |= {"trust_evaluation": section, "promises_here": promise_table(section, rows, made, trust)}
    return sections


def write_external(
    work: Work,
    classes: Classes,
    about: Mapping[str, Any],
    trust: dict[str, Any],
    out: Path,
    *,
    reweighted: bool,
    replicates: int,
    seed: int,
    tones: bool = False,
) -> dict[str, Any]:
    """Write predictions, tables, figures, ``report.json`` and ``README.md`` into ``out``; returns the report.

    Args:
        work: a run whose parts are all there.
        classes: of the model.
        about: the sections ``model``, ``provenance`` and ``scored`` of the report.
        trust: what was fitted, as far as the answers were given by it.
        out: the folder.
        reweighted: whether the answers were re-weighted to another prior.
        replicates: bootstrap resamples.
        seed: of the resamples.
        tones: estimate the skin tone, and compare it with the recorded one.

    Raises:
        UserError: nothing can be evaluated.
    """
    from_answers = reweighted
    translated = classes.translated(one.labels[LABEL] for one in read_listing(work.listing) if one.labels)
    if classes.on_malignancy:  # sets and bands hold for the model's own classes
        from_answers, trust = True, {"temperature": {"value": 1.0}}
    rows = gather(work, classes, about["model"]["title"], from_answers, promised="conformal" in trust, tones=tones)
    write_predictions(rows, out / PREDICTIONS)
    scored = {
        **about["scored"],
        "evaluated": len(rows),
        "own_lesion": int((rows.lesion_id == rows.image_id).sum()),
        "sources": sorted({str(name) for name in rows.columns.get("source", ())}),
        "probabilities": "re-weighted to the prior given" if reweighted else "as calibrated",
        **({"evaluated_on": list(MALIGNANCY)} if classes.on_malignancy else {}),
        **({"labels_translated": translated} if translated else {}),
        **({ESTIMATED_TONE: tone_facts(rows, replicates, seed)} if tones else {}),
    }
    report: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **about, "scored": scored, "trust": trust}
    report.update(evaluated(rows, trust, replicates, seed))
    write_tables(report["evaluation"][SPLIT], out, title=f"{about['model']['title']}, {rows.dataset}")
    report["figures"] = draw_all(report, {SPLIT: rows}, out)
    if report.get("trust_evaluation", {}).get("sets"):  # None where the gate turned every image away
        report["figures"] += draw_trust(report, {SPLIT: rows}, {}, out)
    write_report(report, out)
    write_text(out / "README.md", page(report))
    return report


def tone_facts(rows: Predictions, replicates: int, seed: int) -> dict[str, Any]:
    """How the estimated skin tone agrees with the recorded one, and what it is."""
    recorded = rows.columns.get("skin_tone", np.full(len(rows), "unknown", dtype=object))
    found = agreement(rows.columns[ESTIMATED_TONE], recorded, rows.group_id, replicates, seed)
    return {**found, "convention": CONVENTIONS}


def page(report: Mapping[str, Any]) -> str:
    """The ``README.md`` of a scored folder with labels: a pure function of its report."""
    found, scored, model = report["evaluation"][SPLIT], report["scored"], report["model"]
    figures = [f"![{figure['file']}]({figure['file']})\n\n{figure['caption']}\n" for figure in report["figures"]]
    revision = f" at {model['revision']}" if model["revision"] else ""
    lines = [
        f"# {model['title']} on {scored['folder']}",
        "",
        f"{found['n']:,} labelled images of {found['n_groups']:,} lesions, answered by {model['title']}{revision} "
        f"({scored['inference']}; probabilities {scored['probabilities']}).",
        *remarks(scored, found["n"]),
        "",
        "| metric | value (95 % interval) |",
        "|---|---:|",
        *(
            f"| {name} | {Number.read(value).text()} |"
            for name, value in [*main_numbers(found), *trusted_numbers(report)]
        ),
        "",
        *promises_here(report),
        "| class | images | lesions | precision | recall | AUROC |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {cell(row['name'])} | {row['support']:,} | {row['lesions']:,} | "
            + " | ".join(Number.read(row[key]).text() for key in ("precision", "recall", "auroc"))
            + " |"
            for row in found["per_class"]
        ),
        "",
        *by_group(report),
        *decision_curve(found["decision_curve"]),
        *figures,
        f"Made by `{report['provenance']['command']}`. Every number here is in `report.json`, what each of them means "
        f"under `conventions` there; `answers.csv` holds the answer to each image, `{PREDICTIONS}` the raw outputs. "
        "Research software, never a medical device.",
    ]
    return "\n".join(lines) + "\n"


def remarks(scored: Mapping[str, Any], n: int) -> list[str]:
    """Facts about the images that the numbers depend on: sentences, each a paragraph's line."""
    found = []
    if "evaluated_on" in scored:
        found.append(
            "The labels say benign or malignant only: the probabilities of the malignant and premalignant classes are "
            "summed, and nothing is evaluated by class."
        )
    if scored.get("labels_translated"):
        pairs = ", ".join(f"{text} as {name}" for text, name in scored["labels_translated"].items())
        found.append(f"Labels taken by the taxonomy: {pairs}. Premalignant diagnoses count as malignant.")
    if scored["own_lesion"]:
        found.append(
            f"{scored['own_lesion']:,} images have no `lesion_id` and count as a lesion each: if some show the same "
            "one, the intervals are too narrow."
        )
    if scored["labelled"] > n:
        found.append(f"{scored['labelled'] - n:,} further labelled images could not be read and are left out.")
    if scored["images"] > scored["labelled"]:
        found.append(
            f"{scored['images'] - scored['labelled']:,} images without a label were answered and not evaluated."
        )
    if ESTIMATED_TONE in scored:
        found.append(tone_sentence(scored[ESTIMATED_TONE]))
    reasons = ", ".join(f"{name} {count:,}" for name, count in scored["reasons"].items())
    return [*found, f"Of all {scored['images']:,} images: {reasons}." if reasons else ""]


def tone_sentence(tone: Mapping[str, Any]) -> str:
    """What the estimate of the skin tone is, and its error."""
    start = f"`{ESTIMATED_TONE}` is an estimate from the border of {tone['estimated']:,} images (see `report.json`)."
    if tone["spearman"]["value"] is None:
        return f"{start} It could not be compared with a recorded tone."
    rank, exact, near = (Number.read(tone[name]) for name in ("spearman", "exact", "within_one"))
    usual = tone["most_frequent"]
    return (
        f"{start} Against the recorded Fitzpatrick type of {tone['n']:,} images: rank correlation {rank.text(2)}, the "
        f"same of six {exact.text(1, percent=True)}, the same or a neighbour {near.text(1, percent=True)}; naming the "
        f"most frequent type of all gives {100 * usual['exact']:.1f} % and {100 * usual['within_one']:.1f} %."
    )


def main_numbers(found: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and number of each line of the main table."""
    for name, path in PLACES.items():
        value: Any = found
        for key in path:
            value = value[key]
        if value.get("why") != NO_MALIGNANT_CLASS:
            yield title(name), value
    yield "ECE of a perfect model at this n", found["calibration"]["after"]["ece_floor"]
    for level, value in found["discrimination"]["sensitivity_malignant_at_specificity"].items():
        if value.get("why") == NO_MALIGNANT_CLASS:
            continue
        yield f"sensitivity for malignant at specificity {level} ↑", value
    for level, value in found["discrimination"]["specificity_malignant_at_sensitivity"].items():
        yield f"specificity for malignant at sensitivity {level} ↑", value
    yield "partial AUROC above sensitivity 0.80, at most 0.2 ↑", found["discrimination"]["partial_auroc_malignant"]


def by_group(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the table of subgroups, the unknown among them; none where nothing is known of anybody."""
    trusted = report.get("trust_evaluation") or {}
    places = {
        "accuracy": ("accuracy", report["evaluation"][SPLIT]["subgroups"]),
        "AUROC, malignant": ("auroc_malignant", report["evaluation"][SPLIT]["subgroups"]),
        "ECE": ("ece", report["evaluation"][SPLIT]["subgroups"]),
        "coverage of sets": ("coverage", (trusted.get("sets") or {}).get("subgroups", {})),
        "accepted by the gate": ("accepted", (trusted.get("abstention") or {}).get("columns", {})),
    }
    shown = {title: place for title, place in places.items() if place[1]}
    lines = []
    for column, rows in report["evaluation"][SPLIT]["subgroups"].items():
        if any(row["n"] and row["value"] != "unknown" for row in rows):
            lines += [_group_line(column, row, shown.values()) for row in rows if row["n"]]
    if lines:
        yield from ("## By group", "", f"In italics: fewer than {LEAST_LESIONS} lesions, which show little.", "")
        yield from (f"| group | lesions | {' | '.join(shown)} |", f"|---|---:|{'---:|' * len(shown)}", *lines, "")


def _group_line(column: str, row: Mapping[str, Any], places: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    mark = "*" if row["n_groups"] < LEAST_LESIONS else ""
    cells = [f"{mark}{column.replace('_', ' ')} {cell(row['value'])}{mark}", f"{row['n_groups']:,}"]
    for name, columns in places:
        found = next((one for one in columns.get(column, ()) if one["value"] == row["value"]), None)
        cells.append("–" if found is None else f"{mark}{Number.read(found[name]).text()}{mark}")
    return f"| {' | '.join(cells)} |"


def decision_curve(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of the net benefit at each threshold; none where it is not defined."""
    if rows:
        yield from ("## Decision curve", "", "Net benefit per image of acting where `p_malignant` is at or above the ")
        yield from ("threshold (Vickers & Elkin 2006); gain: over the better of acting on all and on none.", "")
        yield from ("| threshold | model | acting on all | gain |", "|---:|---:|---:|---:|")
        for row in rows:
            model, everyone = (Number.read(row[name]).text() for name in ("model", "treat_all"))
            yield f"| {row['threshold']:g} | {model} | {everyone} | {Number.read(row['gain']).text(signed=True)} |"
        yield ""


def promises_here(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the promise table; none where nothing was promised."""
    if "promises_here" in report:
        yield from ("## Do the promises hold here?", "", *promise_lines(report["promises_here"]), "")
        yield from (*report["promises_here"]["conventions"].values(), "", "## By class", "")


def trusted_numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and number of each line on how far the promises held; none where nothing was promised."""
    if "trust_evaluation" in report:
        verdicts = report["trust_evaluation"]["verdicts"][SPLIT]
        yield "share answered, not declined", verdicts["answered"]
        yield "error among the answered ↓", verdicts["error_answered"]
        yield "error among the declined", verdicts["error_declined"]
