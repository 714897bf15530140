"""A finished model with its network as a graph of OpenVINO or ONNX beside the weights: built, compared, written.

The graph answers in place of torch only where both agree on images that the quantisation did not see: the second half
of the calibration split, divided as in the fit of trust.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets_scripts.command import UserError
from datasets_scripts.output import written_whole
from hub_models.backend_lesion import (
    EARLY_STATISTICS,
    EXPORTED,
    FEATURES,
    FILES,
    RAW_LOGITS,
    RUNTIMES,
    SCHEMA_VERSION,
    WEIGHTS,
    BackendError,
    Graph,
    digest_of,
    import_runtime,
    read_exported,
)
from model_cards.build import build_card
from trainers.evaluation.decisions import Decisions, decisions
from trainers.metrics.calibration import ece, reliability_bins
from trainers.model_folder.data import LesionImages, Splits
from trainers.model_folder.evaluate import write_report
from trainers.model_folder.finish import save
from trainers.model_folder.folder import REBUILT, EvaluatedModel, as_folder, check_output, read_finished
from trainers.model_folder.predict import predict_split, with_ood_scores
from trainers.model_folder.provenance import of_the_suite, origin
from trainers.model_folder.trust import FITTED_ON
from trainers.trust.halves import halve

PRECISIONS = ("f32", "bf16", "int8")
# Format and precision -> the packages that it takes.
NEEDS = {
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxruntime"),
}
QUANTISER = "nncf"
# Of the images that the quantisation did not see: the least shares of the same decisions and of the same prediction
# sets, and the most that the expected calibration error may change.
DECISIONS_AGREE, SETS_AGREE, ECE_MOVES = 0.995, 0.99, 0.002
# Images that the ranges of the activations are taken from.
MOST_SEEN = 300
# In float32 without images: the largest difference of a logit, relative to the largest logit, on random pixels.
CLOSE = 1e-3


def export(
    source: str, splits: Splits | None, out: Path, *, form: str, precision: str = "f32", progress: bool = True
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns the figures of the comparison.

    Args:
        source: a finished model of ours with fitted trust: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset of the comparison and of the quantisation; None = float32 is compared on random pixels.
        out: absent, or an empty folder.
        form: ``openvino`` or ``onnx``.
        precision: ``f32``, ``bf16`` or ``int8``.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or none with fitted trust; a package is missing; the
            precision is not possible here, or takes images; the graph answers otherwise than torch.
    """
    check_output(out)
    check_possible(form, precision, splits is not None)
    with as_folder(source) as folder, tempfile.TemporaryDirectory(prefix="export-") as temporary:
        finished = read_finished(folder, source)
        check_exportable(finished.model, source)
        seen, unseen, split = (None, None, "") if splits is None else halves(finished, splits)
        if splits is not None:
            splits = splits.in_order(finished.model.config.labels)
        images = None if splits is None or precision != "int8" else calibration_inputs(finished, splits, split, seen)
        paths = build_graph(finished.model, Path(temporary), form, precision, images)
        graph = Graph(form, paths, precision)
        if splits is None:
            figures = compare_random(finished.model, graph, source)
        else:
            figures = compare(finished, graph, splits, split, unseen, progress=progress) | {"split": split}
            figures["images_seen"] = 0 if images is None else len(images)
            if refused := why_refused(figures):
                raise UserError(
                    f"{form} {precision} of {source!r} answers otherwise than torch: {refused}; give another "
                    "--precision, or other --calibration_images"
                )
        write(finished, out, form, precision, paths, figures)
    return figures


# ------------------------------------------------------------------- checks


def check_possible(form: str, precision: str, images: bool) -> None:
    """Refuse what cannot be made on this machine, before anything is loaded.

    Raises:
        UserError: names the format or the precision, and what to do.
    """
    needed = [*NEEDS[form], *([QUANTISER] if precision == "int8" else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {form} --precision {precision} needs what is not installed: pip install {' '.join(missing)}"
        )
    if precision != "f32" and not images:
        raise UserError(
            f"--precision {precision} was given without --calibration_images: give a dataset with labels, such as the "
            "one that the model's trust was fitted on"
        )
    if precision == "bf16" and form == "onnx":
        raise UserError("--precision bf16 is not possible with --format onnx: give f32 or int8, or --format openvino")
    if precision == "bf16" and "BF16" not in import_runtime("openvino").Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise UserError(
            "--precision bf16: this CPU has no bfloat16 (avx512_bf16 or amx_bf16), so that its answers cannot be "
            "compared here: export on a CPU that has it, or give f32 or int8"
        )


def check_exportable(model: Any, source: str) -> None:
    """Refuse a model without images, or without fitted trust.

    Raises:
        UserError: names the model.
    """
    if "pixel_values" not in model.input_names:
        raise UserError(f"{source!r} reads no image: its network is so small that an export gains nothing")
    try:
        model.check_trust_is_fitted()
    except RuntimeError as error:
        raise UserError(
            f"{source!r} has no fitted trust: fit it first with python -m trainers.fit_trust ({error})"
        ) from error


def halves(finished: EvaluatedModel, splits: Splits) -> tuple[np.ndarray, np.ndarray, str]:
    """Rows of the half that the quantisation may see, rows of the other, and the split that both are of.

    Raises:
        UserError: the dataset has no split to compare on, or one that is too small.
    """
    split = next((name for name in FITTED_ON if name in splits.splits), "")
    if not split:
        raise UserError(f"--calibration_images has no {' and no '.join(FITTED_ON)} split: give a dataset with one")
    labels = np.array(splits.splits[split]["label"][:], dtype=int)
    seed = int(finished.report["trust"]["temperature"].get("seed", 0))
    try:
        first, second = halve(labels, splits.column(split, "group_id"), seed)
    except ValueError as error:
        raise UserError(f"--calibration_images, {split} split: {error}") from error
    return np.flatnonzero(first), np.flatnonzero(second), split


# -------------------------------------------------------------------- graph


class Network(nn.Module):
    """A classifier from its inputs to raw logits, features, and the statistics of the early layers where it has any."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Inputs in the order of ``input_names`` -> tensors in the order of :func:`output_names`."""
        features, early, _ = self.model.run_encoder(*inputs)
        raw = self.model.classify(features)
        return (raw, features) if early is None else (raw, features, early)


def output_names(model: Any) -> list[str]:
    """The names of the graph's outputs, in their order."""
    return [RAW_LOGITS, FEATURES, *([EARLY_STATISTICS] if model.early_layers() else [])]


def build_graph(
    model: Any, folder: Path, form: str, precision: str, images: list[dict[str, np.ndarray]] | None
) -> list[Path]:
    """Write one graph for all members; returns its files in the order of ``FILES``.

    Args:
        model: the classifier, in eval mode.
        folder: to write into.
        form: ``openvino`` or ``onnx``.
        precision: of the network; with ``int8`` head and early layers keep float32.
        images: for ``int8`` the inputs that the ranges of the activations are taken from.
    """
    paths = [folder / name for name in FILES[form]]
    example = example_inputs(model, 2)
    give_early, model.give_early = model.give_early, True
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: its constants are shapes
            build = _build_openvino if form == "openvino" else _build_onnx
            build(Network(model).eval(), example, paths, precision, images)
    finally:
        model.give_early = give_early
    return paths


def _build_openvino(
    network: Network,
    example: dict[str, torch.Tensor],
    paths: list[Path],
    precision: str,
    images: list[dict[str, np.ndarray]] | None,
) -> None:
    openvino = import_runtime("openvino")
    graph = openvino.convert_model(network, example_input=tuple(example.values()))
    for node, name in zip(graph.inputs, example, strict=True):
        node.get_tensor().set_names({name})
    for node, name in zip(graph.outputs, output_names(network.model), strict=True):
        node.get_tensor().set_names({name})
    graph.reshape({name: [-1, *value.shape[1:]] for name, value in example.items()})
    if images is not None:
        before = {name: ancestors(graph.output(name).get_node()) for name in output_names(network.model)}
        graph = quantise(graph, images, kept_in_float(before))
    openvino.save_model(graph, str(paths[0]), compress_to_fp16=precision == "bf16")


def ancestors(node: Any) -> set[str]:
    """Names of all operations of an OpenVINO graph that lead to one, with it."""
    names, waiting = set(), [node]
    while waiting:
        one = waiting.pop()
        if one.get_friendly_name() not in names:
            names.add(one.get_friendly_name())
            waiting += [source.get_node() for source in one.input_values()]
    return names


def _build_onnx(
    network: Network,
    example: dict[str, torch.Tensor],
    paths: list[Path],
    precision: str,
    images: list[dict[str, np.ndarray]] | None,
) -> None:
    onnx = import_runtime("onnx")
    names = output_names(network.model)
    torch.onnx.export(
        network,
        tuple(example.values()),
        str(paths[0]),
        input_names=list(example),
        output_names=names,
        dynamic_axes={name: {0: "n"} for name in [*example, *names]},
        dynamo=False,  # the newer one gives the same graph, in ten times the time and with further packages
    )
    if images is not None:
        graph = onnx.load(str(paths[0]))
        producers = {output: node for node in graph.graph.node for output in node.output}

        def before(name: str) -> set[str]:
            found, waiting = set(), [name]
            while waiting:
                node = producers.get(waiting.pop())
                if node is not None and node.name not in found:
                    found.add(node.name)
                    waiting += node.input
            return found

        kept = kept_in_float({name: before(name) for name in names})
        onnx.save(quantise(graph, images, kept), str(paths[0]))


def kept_in_float(before: Mapping[str, set[str]]) -> list[str]:
    """The operations that keep float32: the head, and all that the statistics of the gate are computed from.

    Args:
        before: output -> all operations that lead to it.
    """
    return sorted(before[RAW_LOGITS] - before[FEATURES] | before.get(EARLY_STATISTICS, set()))


def quantise(graph: Any, images: list[dict[str, np.ndarray]], kept: list[str]) -> Any:
    """The graph with weights and activations of at most 8 bits, but for the operations in ``kept``, by NNCF."""
    nncf = import_runtime(QUANTISER)
    nncf.set_log_level(logging.ERROR)  # else a line for each operation
    return nncf.quantize(
        graph,
        nncf.Dataset(images),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        # Weights of 7 bits: on a CPU without VNNI the sum of two products of 8 bits overflows.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )


def example_inputs(model: Any, n: int) -> dict[str, torch.Tensor]:
    """Random inputs of N images; what is known beside them is unknown."""
    size = model.config.image_size
    pixels = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    others = {"metadata": lambda: model.metadata_encoder.rows(None, pixels).clone()}
    return {name: pixels if name == "pixel_values" else others[name]() for name in model.input_names}


def calibration_inputs(
    finished: EvaluatedModel, splits: Splits, split: str, rows: np.ndarray | None
) -> list[dict[str, np.ndarray]]:
    """Up to ``MOST_SEEN`` inputs of a batch of one each, spread evenly over the rows of a split."""
    assert rows is not None
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_SEEN)).astype(int)]
    images = LesionImages(splits.splits[split].select(chosen), finished.processor)
    names = finished.model.input_names
    return [{name: images[index][name][None].numpy() for name in names} for index in range(len(images))]


# --------------------------------------------------------------- comparison


def compare(
    finished: EvaluatedModel,
    graph: Graph,
    splits: Splits,
    split: str,
    rows: np.ndarray | None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Figures of :func:`agreement` between torch and a graph, on some rows of a split."""
    model, trust = finished.model, finished.report["trust"]
    made, labels = [], np.empty(0)
    for runs in (None, graph):
        model.graph = runs
        try:
            rows_made = predict_split(
                model,
                finished.processor,
                splits,
                split,
                rows=rows,
                named=f"{split} ({'torch' if runs is None else graph.name})",
                inference=trust.get("fitted_for", {}).get("inference", "plain"),
                progress=progress,
            )
        finally:
            model.graph = None
        made.append(decisions(with_ood_scores(model, rows_made), trust))
        labels = rows_made.label
    return agreement(made[0], made[1], labels)


def agreement(torch_made: Decisions, graph_made: Decisions, labels: np.ndarray) -> dict[str, Any]:
    """How far the answers of torch and of a graph agree on the same N images.

    Returns:
        ``images`` (N), ``decisions`` (share of the same class, the same verdict and the same flag of malignancy),
        ``sets`` (share of the same prediction sets), ``ece`` of torch, ``ece_graph``, and ``largest_difference`` of a
        probability.
    """
    same = (torch_made.predicted == graph_made.predicted) & (torch_made.abstains == graph_made.abstains)
    if torch_made.flagged is not None and graph_made.flagged is not None:
        same &= torch_made.flagged == graph_made.flagged
    errors = [
        float(ece(reliability_bins(made.probs.max(axis=1), made.probs.argmax(axis=1) == labels)))
        for made in (torch_made, graph_made)
    ]
    return {
        "images": len(labels),
        "decisions": float(same.mean()),
        "sets": float((torch_made.sets == graph_made.sets).all(axis=1).mean()),
        "ece": errors[0],
        "ece_graph": errors[1],
        "largest_difference": float(np.abs(torch_made.probs - graph_made.probs).max()),
    }


def why_refused(figures: Mapping[str, Any]) -> str:
    """Which bounds the figures miss, in words; "" where they hold."""
    moved = abs(figures["ece_graph"] - figures["ece"])
    missed = [
        (figures["decisions"] < DECISIONS_AGREE, "decisions agree", figures["decisions"], DECISIONS_AGREE),
        (figures["sets"] < SETS_AGREE, "prediction sets agree", figures["sets"], SETS_AGREE),
    ]
    found = [f"{name} for {share:.2%} (at least {least:.1%})" for bad, name, share, least in missed if bad]
    if not moved < ECE_MOVES:
        found.append(
            f"the ECE moves by {moved:.4f}, from {figures['ece']:.4f} to {figures['ece_graph']:.4f} (less than "
            f"{ECE_MOVES})"
        )
    return f"of {figures['images']} images {', '.join(found)}" if found else ""


def compare_random(model: Any, graph: Graph, source: str) -> dict[str, Any]:
    """The largest difference of a logit between torch and a float32 graph on random pixels, in units of the largest.

    Raises:
        UserError: it is more than ``CLOSE``.
    """
    inputs = example_inputs(model, 3)
    with torch.inference_mode():
        wanted = model(**inputs, return_dict=True).raw_logits
        found = graph.run(inputs)[RAW_LOGITS]
    largest = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    if not largest < CLOSE:
        raise UserError(
            f"{graph.name} {graph.precision} of {source!r}: on random pixels a logit differs by {largest:.2g} of the "
            f"largest (less than {CLOSE} is needed): this architecture cannot be exported"
        )
    return {"images": 0, "largest_logit_difference": largest}


# ------------------------------------------------------------------- folder


def write(
    finished: EvaluatedModel, out: Path, form: str, precision: str, paths: list[Path], figures: dict[str, Any]
) -> None:
    """A copy of the finished folder with the graph, its description, and its section of report and card."""
    report = finished.report
    with written_whole(out) as folder:
        shutil.copytree(finished.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*UNCOPIED))
        save(finished.model, finished.processor, folder, report["model"].get("weights_dtype", "float32"))
        weights = digest_of(folder / WEIGHTS)
        described: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "weights_sha256": weights, "graphs": {}}
        earlier = stored_graphs(finished, weights)
        described["graphs"] |= earlier
        for path in paths:
            shutil.copyfile(path, folder / path.name)
        described["graphs"][form] = {
            "precision": precision,
            "files": {path.name: digest_of(path) for path in paths},
        }
        for name in set(FILES) - set(described["graphs"]):
            for file in FILES[name]:
                (folder / file).unlink(missing_ok=True)
        text = json.dumps(described, indent=1, sort_keys=True) + "\n"
        (folder / EXPORTED).write_text(text, encoding="utf-8")
        kept = {name: section for name, section in report.get("exported", {}).items() if name in earlier}
        packages = {name: metadata.version(name) for name in (RUNTIMES[form], *([QUANTISER] * (precision == "int8")))}
        report["exported"] = kept | {
            form: {"precision": precision, **figures, "bounds": bounds(), "packages": packages, "provenance": origin()}
        }
        report |= of_the_suite(report, folder)
        write_report(report, folder)
        build_card(folder)


# The figures stay: nothing that they show has changed.
UNCOPIED = [pattern for pattern in REBUILT if pattern != "figures"]


def bounds() -> dict[str, float]:
    """The bounds of the comparison, as a report states them."""
    return {"decisions": DECISIONS_AGREE, "sets": SETS_AGREE, "ece_moves": ECE_MOVES}


def stored_graphs(finished: EvaluatedModel, weights: str) -> dict[str, Any]:
    """The graphs of other formats that the folder holds already for these weights."""
    try:
        described = read_exported(finished.model.config)
    except BackendError:
        return {}
    return dict(described["graphs"]) if described.get("weights_sha256") == weights else {}
