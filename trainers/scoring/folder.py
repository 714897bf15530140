"""A folder of images from listing to finished answers: begun or gone on with, scored, merged, put in place whole."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.command import UserError, read_json, shown_path
from datasets_scripts.images import passed_over_text
from datasets_scripts.output import beside, locked, put_in_place
from hub_models.decision_lesion import chosen_rule, same_class
from model_cards.manifest import write_text
from trainers.evaluation.matrix import archives_of
from trainers.metrics.predictions import TEXT_COLUMNS
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import origin
from trainers.model_folder.source import Source, fingerprint
from trainers.scoring.answers import Merged, merge, probabilities
from trainers.scoring.files import IMAGE_COLUMN, Listing, Table, one_image, walk_images, write_listing
from trainers.scoring.groups import check_group_column, write_groups
from trainers.scoring.labels import LABEL, Classes, check_labels
from trainers.scoring.scorer import AnswerSettings, Scorer
from trainers.scoring.workers import Work, part_size, score_in_processes, score_parts
from trainers.trust.prior import estimate_prior

SCHEMA_VERSION = 1
LABEL_COLUMNS = (IMAGE_COLUMN, LABEL, "lesion_id", "group_id", "age", *TEXT_COLUMNS)
SETTINGS, LISTING, PARTS = "settings.json", "listing.jsonl", "parts"
LOCK = "lock"  # of earlier versions, in working folders that they left behind
# Other versions of these may answer otherwise in the last digits.
PACKAGES = ("torch", "transformers", "pillow")
WITHOUT_BIASES = (
    "this model's calibration has no bias per class, so what its training did to the class frequencies is still in its "
    "probabilities and in this estimate: fit it with `python -m trainers.fit_trust MODEL --temperature bias_corrected`"
)
EM = (
    "expectation-maximisation on the probabilities of the images that the gate did not turn away, each weighing 1 "
    "(Saerens et al. 2002)"
)


@dataclass(frozen=True)
class Job:
    """What to score, and where to write it.

    Attributes:
        source: the model.
        settings: how it answers.
        images: a folder, or one file.
        out: the folder to write.
        labels: ``--labels``, or None.
        metadata: ``--metadata``, or None.
        batch_size: images per forward pass.
        processes: how many processes score.
        estimate_prior: whether the class prior of the folder is estimated.
        bootstrap_replicates: of a report.
        group_column: column of either table; each of its values also gets an answer. "" = none.
        estimate_skin_tone: of a report: subgroups by a tone that is estimated from the border of each image.
    """

    source: Source
    settings: AnswerSettings
    images: Path
    out: Path
    labels: Path | None = None
    metadata: Path | None = None
    batch_size: int = 32
    processes: int = 1
    estimate_prior: bool = False
    bootstrap_replicates: int = 1000
    group_column: str = ""
    estimate_skin_tone: bool = False

    @property
    def partial(self) -> Path:
        """``<out>.partial``, where an unfinished run stands."""
        return beside(self.out)

    @property
    def root(self) -> Path:
        """The folder that images are named from."""
        return self.images if self.images.is_dir() else self.images.parent


@dataclass
class ScoringResult:
    """A finished run.

    Attributes:
        summary: the content of ``summary.json``.
        report: the content of ``report.json``, None without labels.
        notes: what the user should know, a sentence each.
    """

    summary: dict[str, Any]
    report: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)


def score_folder(job: Job) -> ScoringResult:
    """Score a folder, or go on with it; ``out`` appears whole or not at all.

    Raises:
        UserError: something the user can fix; what was scored before stays in ``<out>.partial``.
    """
    started = time.perf_counter()
    check_empty(job.out, "--out")
    metadata_rows = None if job.metadata is None else Table(job.metadata, "--metadata")
    label_rows = None if job.labels is None else Table(job.labels, "--labels", (LABEL,))
    if job.group_column:
        check_group_column(job.group_column, (metadata_rows, label_rows))
    with tempfile.TemporaryFile("w+", encoding="ascii") as file:
        without = (job.out, job.partial)
        passed_over: Counter[str] = Counter()
        found = one_image(job.images) if job.images.is_file() else walk_images(job.images, without, passed_over)
        listing = write_listing(found, job.root, file, metadata_rows, label_rows)
        scorer = Scorer(job.source, job.settings)
        scorer.check()
        classes = truth = Classes.of(scorer.labels, scorer.model.config)
        if label_rows is not None:
            truth = classes.for_labels(row[LABEL] for row in label_rows.rows.values())
            check_labels(label_rows, truth)
        if metadata_rows is not None:
            scorer.check_rows(metadata_rows.rows, metadata_rows.where)
        if job.estimate_prior and not scorer.calibration_prior():
            raise UserError(
                f"--estimate_prior needs the prior that --model {scorer.title} was calibrated at: fit its trust with "
                "`python -m trainers.fit_trust`, or leave the option out"
            )
        # Workers, and a run that goes on, use what was chosen here.
        job = replace(job, settings=replace(job.settings, backend=scorer.backend))
        facts = describe(scorer, classes)
        file.seek(0)
        with begun(job, decisive(job, facts, listing), file):
            work = Work(
                source=replace(job.source, revision=scorer.commit or job.source.revision),
                settings=job.settings,
                root=job.root,
                listing=job.partial / LISTING,
                parts=job.partial / PARTS,
                images=listing.images,
                batch_size=job.batch_size,
                part_size=part_size(job.batch_size),
            )
            earlier = score_missing(scorer, work, job.processes)
            finished = finish(job, work, listing, scorer, facts, truth, earlier, started, passed_over)
    finished.notes += file_notes(listing.several, passed_over)
    finished.notes += notes(scorer, listing, metadata_rows)
    if label_rows is not None:
        finished.notes += label_notes(label_rows, truth, job.group_column)
    return finished


def describe(scorer: Scorer, classes: Classes) -> dict[str, Any]:
    """The ``model`` section of summary and report."""
    return {
        "name": scorer.title,
        "title": scorer.title,
        "revision": scorer.commit,
        "fingerprint": fingerprint(scorer.folder),
        "class": type(scorer.model).__name__,
        "model_type": scorer.model.config.model_type,
        "of_this_suite": scorer.ours,
        "inputs": scorer.inputs,
        "fitted_on": fitted_on(scorer.folder),
        "labels": [
            {"name": label, "long_name": classes.long_names[label], "group": classes.groups.get(label)}
            for label in classes.labels
        ],
    }


def fitted_on(folder: Path) -> list[str]:
    """The archives that a model was trained and its trust fitted on, by its report; empty where that is not known."""
    try:
        return archives_of(read_json(folder / "report.json"))
    except (OSError, UserError, KeyError, TypeError):
        return []


def decisive(job: Job, facts: Mapping[str, Any], listing: Listing) -> dict[str, Any]:
    """What decides the answers: a run is gone on with only where all of it is as before."""
    settings = job.settings
    return {
        "model": facts["title"],
        "revision": facts["revision"],
        "model_files": facts["fingerprint"],
        "images": f"{listing.images} images and their metadata, sha256 {listing.sha256}",
        "inference": settings.inference,
        "samples": settings.samples,
        "seed": settings.seed,
        "trust": settings.trust,
        "prior": None if settings.prior is None else dict(settings.prior),
        "decision": settings.decision,
        "backend": settings.backend,
        "with_labels": settings.keep_logits,
        "keep_features": settings.keep_features,
        "batch_size": job.batch_size,
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


@contextmanager
def begun(job: Job, settings: dict[str, Any], listing: Any) -> Iterator[None]:
    """Make the working folder, or find an earlier run of the same settings in it; no other process may write it.

    Raises:
        UserError: it is of other settings, or another process writes it.
    """
    with locked(job.out):
        _begin(job.partial, settings, listing)
        yield


def _begin(partial: Path, settings: dict[str, Any], listing: Any) -> None:
    stored = partial / SETTINGS
    if partial.exists() and not stored.is_file() and {path.name for path in partial.iterdir()} - {LOCK, LISTING, PARTS}:
        raise UserError(f"{str(partial)!r} is not of this command: choose another --out or delete it")
    if stored.is_file():
        try:
            earlier = json.loads(stored.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{str(stored)!r} cannot be read ({error}): delete its folder") from error
        for name, value in settings.items():
            if earlier.get(name) != value:
                raise UserError(
                    f"{str(partial)!r} holds answers of other settings: {name} was {earlier.get(name)!r}, now it is "
                    f"{value!r}; give the same to go on, choose another --out, or delete it"
                )
    if not stored.is_file():
        shutil.rmtree(partial / PARTS, ignore_errors=True)
        (partial / PARTS).mkdir(parents=True)
        with (partial / LISTING).open("w", encoding="ascii") as file:
            shutil.copyfileobj(listing, file)
        # Last: with it, the listing is whole.
        write_text(stored, json.dumps(settings, indent=1, allow_nan=False) + "\n")


def score_missing(scorer: Scorer, work: Work, processes: int) -> int:
    """Score the parts that are not there yet; returns the number of images that an earlier run had done."""
    numbers = work.missing()
    earlier = work.images - sum(work.length(number) for number in numbers)
    processes = min(processes, len(numbers))
    if processes > 1:
        scorer.model.cpu()  # each worker has its own; this one answers no more
        steps = score_in_processes(work, numbers, processes)
    else:
        steps = score_parts(scorer, work, numbers)
    with tqdm(total=work.images, initial=earlier, desc="score", unit="image", disable=None) as bar:
        for images in steps:
            bar.update(images)
    return earlier


def trust_of(scorer: Scorer) -> dict[str, Any]:
    """The fitted trust as far as the answers follow from it: what a report may state of them."""
    fitted, settings = dict(getattr(scorer.model.config, "trust", None) or {}), scorer.settings
    if not scorer.ours or settings.prior is not None or not fitted.get("temperature"):
        return {"temperature": {"value": 1.0}}
    other = settings.inference != (fitted.get("fitted_for") or {}).get("inference", "plain")
    other |= not same_class(chosen_rule(settings.decision, fitted), chosen_rule(None, fitted))
    return {"temperature": fitted["temperature"]} if other or not settings.trust else fitted


def finish(
    job: Job,
    work: Work,
    listing: Listing,
    scorer: Scorer,
    facts: dict[str, Any],
    truth: Classes,
    earlier: int,
    started: float,
    passed_over: Counter[str],
) -> ScoringResult:
    """Merge the parts, evaluate them where there are labels, sum up, and put the finished folder in place.

    Args:
        job: what is scored.
        work: all parts of which are there.
        listing: of the images.
        scorer: the model that answered.
        facts: the ``model`` section.
        truth: the classes that the labels are evaluated on.
        earlier: images that an earlier run had scored.
        started: when this run began, on the clock of ``time.perf_counter``.
        passed_over: files that were not scored, by kind.
    """
    staging = job.partial / "finished"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    merged = merge(work.parts, work.count, scorer.labels, staging)
    made = origin()
    scored = counts(job, listing, merged, passed_over)
    report = None
    if job.labels is not None:
        from trainers.scoring.external import write_external  # metrics and charts, which answers alone need not load

        report = write_external(
            work,
            truth,
            {"model": facts, "provenance": made, "scored": scored},
            trust_of(scorer),
            staging,
            reweighted=job.settings.prior is not None,
            replicates=job.bootstrap_replicates,
            seed=job.settings.seed,
            tones=job.estimate_skin_tone,
        )
    summary = {
        "schema_version": SCHEMA_VERSION,
        "model": facts,
        "scored": scored,
        "estimated_prior": estimate(work, scorer) if job.estimate_prior else None,
        **({"groups": write_groups(work, job.group_column, scorer, truth, staging)} if job.group_column else {}),
        "seconds": round(time.perf_counter() - started, 1),
        "images_of_earlier_runs": earlier,
        "processes": job.processes,
        "provenance": made,
    }
    write_text(staging / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    put_in_place(staging, job.out)
    shutil.rmtree(job.partial)
    return ScoringResult(summary, report)


def counts(job: Job, listing: Listing, merged: Merged, passed_over: Counter[str]) -> dict[str, Any]:
    """The counts of a run, and the settings of its answers."""
    settings = job.settings
    return {
        "folder": job.images.resolve().name,
        "manifest": merged.manifest,
        "images": merged.images,
        "errors": merged.errors,
        "with_metadata": listing.with_metadata,
        "labelled": listing.with_labels,
        "inference": settings.inference,
        "samples": settings.samples if settings.inference.startswith("mc_dropout") else None,
        "trust": settings.trust,
        "prior": None if settings.prior is None else dict(settings.prior),
        "decision": settings.decision,
        "backend": settings.backend,
        "batch_size": job.batch_size,
        "reasons": dict(merged.counts["reason"].most_common()),
        "bands": dict(merged.counts["band"].most_common()),
        "predicted": dict(merged.counts["predicted"].most_common()),
        "is_ood": dict(merged.counts["is_ood"].most_common()),
        "abstain": dict(merged.counts["abstain"].most_common()),
        "malignancy": dict(merged.counts["malignancy"].most_common()),
        "several_frames": listing.several,
        "passed_over": dict((+passed_over).most_common()),
    }


def estimate(work: Work, scorer: Scorer) -> dict[str, Any] | None:
    """The class prior of the images, from their answers alone; None where it is not known what to start from.

    Raises:
        PriorError: no image was answered.
    """
    labels, prior = scorer.labels, scorer.calibration_prior()
    if not prior:
        return None
    probs = probabilities(work.parts, work.count, labels)
    found = estimate_prior(probs, np.asarray(prior))
    return {
        "value": dict(zip(labels, (round(float(share), 6) for share in found.prior), strict=True)),
        "calibrated_at": dict(zip(labels, prior, strict=True)),
        "images": len(probs),
        "iterations": found.iterations,
        "converged": found.converged,
        "log_likelihood": found.log_likelihood,
        "method": EM,
        **({} if scorer.has_biases() else {"caution": WITHOUT_BIASES}),
    }


def file_notes(several: int, passed_over: Counter[str]) -> list[str]:
    """What of the folder was not scored: files that are no images, and frames behind the first."""
    found = []
    if several:
        found.append(f"files of several images (pages or frames), of which the first of each was scored: {several:,}")
    if +passed_over:
        found.append(f"files and folders that are no images were passed over: {passed_over_text(+passed_over)}")
    return found


def label_notes(table: Table, truth: Classes, group_column: str = "") -> list[str]:
    """What of the labels was not read, and how they were translated into the model's classes."""
    unread = [name for name in table.columns if name and name not in (*LABEL_COLUMNS, group_column)]
    if unread:
        return [f"columns of {table.where} that were not read: {', '.join(islice(unread, 8))}", *_taken(table, truth)]
    return _taken(table, truth)


def _taken(table: Table, truth: Classes) -> list[str]:
    texts = [row[LABEL] for row in table.rows.values()]
    if truth.on_malignancy:
        return [
            f"{table.where} says benign or malignant only: the probabilities of the malignant and premalignant classes "
            "are summed, and nothing is evaluated by class"
        ]
    counts = Counter(texts)
    pairs = [f"{text} -> {name} ({counts[text]:,})" for text, name in truth.translated(texts).items()]
    return [f"{table.where}: labels taken by the taxonomy: {', '.join(pairs)}"] if pairs else []


def notes(scorer: Scorer, listing: Listing, rows: Table | None) -> list[str]:
    """What counts as unknown, and what is ignored."""
    found = []
    if scorer.fields and rows is None:
        found.append(f"this model also reads {', '.join(scorer.fields)}: without --metadata all of it is unknown")
    if scorer.groups and listing.with_metadata + listing.with_labels == 0:
        found.append(
            f"this model has sets and bands by {scorer.groups['column']}: without {scorer.groups['read_from']} in "
            "--metadata, every answer has those of all groups together"
        )
    if rows is not None:
        read = [*scorer.fields, *([scorer.groups["read_from"]] if scorer.groups else [])]
        unread = [name for name in rows.columns[1:] if name not in read]
        lacking = [name for name in scorer.fields if name not in rows.columns]
        if unread:
            found.append(f"the model does not read {', '.join(islice(unread, 8))} of {rows.where}")
        if lacking:
            found.append(f"{rows.where} has no {', '.join(lacking)}: unknown for every image")
        if listing.with_metadata < listing.images:
            left = listing.images - listing.with_metadata
            found.append(f"{left} of {listing.images} images have no row in {rows.where}: all unknown for them")
    return found


def print_finished(finished: ScoringResult, out: Path) -> None:
    """Print notes, counts, the estimated prior and the main numbers of a report."""
    for note in finished.notes:
        print(f"note: {note}")
    scored = finished.summary["scored"]
    reasons = ", ".join(f"{name} {count:,}" for name, count in scored["reasons"].items())
    print(f"{scored['images']:,} images: {reasons or 'none answered'}")
    if scored["errors"]:
        print(f"{scored['errors']:,} of them could not be read: see the column error of answers.csv")
    if grouped := finished.summary.get("groups"):
        print(f"{grouped['groups']:,} groups by {grouped['column']}: groups.csv and groups.parquet hold their answers")
    estimated = finished.summary["estimated_prior"]
    if estimated is not None:
        shares = ",".join(f"{name}={share:.4g}" for name, share in estimated["value"].items())
        print(f"estimated prior of {estimated['images']:,} images: {shares}")
        if "caution" in estimated:
            print(f"caution: {estimated['caution']}")
    if finished.report is not None:
        overall = finished.report["evaluation"]["external"]["discrimination"]
        values = [(name, overall[name]["value"]) for name in ("accuracy", "balanced_accuracy", "macro_f1")]
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values if value is not None)
        print(
            f"{finished.report['scored']['evaluated']:,} labelled images: {shown} (README.md and report.json say more)"
        )
        for row in finished.report.get("promises_here", {"rows": []})["rows"]:
            print(f"  {row['promise']}: {row['verdict']}")
    print(f"finished: {shown_path(out)} (answers.csv, answers.parquet, summary.json)")
