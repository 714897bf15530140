"""Inference on a CPU as one table of ratios: ``python tests/benchmarks/inference_speed.py [--rounds N] [--parts ...]``.

All that is compared runs in turn, in one process, round after round; a ratio is that of the least CPU times, so that
other programs on the machine change it little. No number here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "spaces" / "lesion_demo")]

from hub_models import EnsembleForLesionClassification, EnsembleLesionConfig  # noqa: E402
from hub_models.backend_lesion import Folded, Graph, import_runtime  # noqa: E402
from trainers.model_folder.export import build_graph  # noqa: E402

RELEASED = ROOT / "hub_models" / "released"
BACKBONES = {"five ResNet-50, 224 px": "resnet50", "five MobileNetV2, 224 px": "mobilenetv2_100"}
MEMBERS, SIDE = 5, 224
PIECES = 8  # directions of the invented gate


def least(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of this process for one call of each, the least of several rounds in turn after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if number:
                times[name].append(time.process_time() - started)
    return {name: min(several) for name, several in times.items()}


def ensemble(backbone: str) -> EnsembleForLesionClassification:
    """Five members at random, with the fitted trust of a released model and invented matrices of its gate."""
    released = json.loads((RELEASED / "ham10000-ensemble" / "config.json").read_text())
    named = {name: released[name] for name in ("label_names", "label_groups")}
    config = EnsembleLesionConfig(
        id2label={int(key): name for key, name in released["id2label"].items()},
        image_size=SIDE,
        members=[{"backbone": backbone, "backbone_kwargs": {}, "dropout": 0.2}] * MEMBERS,
        **named,
    )
    torch.manual_seed(0)
    model = EnsembleForLesionClassification(config).eval()
    model.give_early = True
    with torch.inference_mode():
        width = model(torch.zeros(1, 3, SIDE, SIDE)).early.shape[1]
    model.give_early = False
    classes, trust = len(config.labels), released["trust"]
    shapes = {"mean": [width], "projection": [width, PIECES], "class_means": [classes, PIECES]}
    trust["ood"] |= {"buffers": shapes, "threshold": 1e9}
    trust["fitted_for"] = {"inference": "plain"}
    model.set_trust(trust, {name: torch.randn(*shape) for name, shape in shapes.items()})
    return model


def graphs(model: Any, folder: Path, precisions: list[str]) -> dict[str, Graph]:
    """A graph of OpenVINO in each precision that this machine can run; the ranges of int8 are of random pixels."""
    if not precisions:
        return {}
    can = import_runtime("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    rng = np.random.default_rng(0)
    images = [{"pixel_values": rng.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(4)]
    found = {}
    for precision in precisions:
        if precision == "bf16" and "BF16" not in can:
            print("bf16: this CPU has none", file=sys.stderr)
            continue
        place = folder / precision
        place.mkdir()
        paths = build_graph(model, place, "openvino", precision, images if precision == "int8" else None)
        found[precision] = Graph("openvino", paths, precision)
    return found


def networks(title: str, backbone: str, batches: list[int], precisions: list[str], rounds: int) -> list[str]:
    """Rows of five members against one eager member, and of the whole ``predict`` against the bare forward."""
    rows = []
    model = ensemble(backbone)
    one = model.members[0]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        made: dict[str, Graph | Folded] = {"folded": Folded(model), **graphs(model, Path(folder), precisions)}
        for batch in batches:
            pixels = torch.randn(batch, 3, SIDE, SIDE)
            last = pixels.contiguous(memory_format=torch.channels_last)

            def forward(graph: Graph | Folded | None, pixels: torch.Tensor = pixels) -> Callable[[], object]:
                def work() -> None:
                    model.graph = graph
                    model(pixel_values=pixels)

                return work

            def whole(graph: Graph | Folded | None, pixels: torch.Tensor = pixels) -> Callable[[], object]:
                def work() -> None:
                    model.graph = graph
                    model.predict(pixel_values=pixels)

                return work

            works: dict[str, Callable[[], object]] = {"one": lambda last=last: one.head(one.backbone(last))}
            for name, graph in {"eager": None, **made}.items():
                works[name], works[f"{name}, predict"] = forward(graph), whole(graph)
            seconds = least(works, rounds)
            for name in ("eager", *made):
                share = seconds[name] / seconds["one"]
                predict = seconds[f"{name}, predict"] / seconds[name]
                rows.append(f"| {title} | {batch} | {name} | {share:.2f} | {predict:.3f} |")
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def space(name: str, backend: str, rounds: int) -> str:
    """A row: an answer of the Space with its heat map, for one photograph, against the bare forward of its network.

    The last column is what follows the answer: the upload is rewritten, so that nothing but its pixels is kept.
    """
    from answering import Options
    from html_answer import answer_panel
    from html_views import save_link, views, waiting
    from image_files import keep_only_pixels, read_image
    from model_loading import ModelStore, parse_models
    from service import Service
    from temporary_files import TemporaryFiles

    store = ModelStore(parse_models(name), "no", backend)
    classifier = store.get(None)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(store, TemporaryFiles(folder))
        photo = Path(folder) / "photo.jpg"
        drawn = Image.open(ROOT / "spaces" / "lesion_demo" / "examples" / "drawn_nv.jpg").convert("RGB")
        drawn.resize((600, 450)).save(photo, quality=92)

        upload = service.files.copy(photo)
        pixels = read_image(upload)

        def answer() -> Any:
            image = read_image(upload)
            prediction, _ = service.predict(image, None, Options())
            panel = answer_panel(prediction.answer, classifier)
            save_link(image, panel, classifier)
            prediction.answer["abstain"] = False  # so that there is a heat map
            waiting(image, prediction, classifier)
            views(image, prediction, classifier)
            return prediction.inputs

        def rewritten() -> None:
            keep_only_pixels(Path(folder) / "copy.jpg", pixels)

        inputs = answer()

        def forward() -> None:
            with torch.inference_mode():
                classifier.model(**inputs)

        seconds = least({"forward": forward, "answer": answer, "rewritten": rewritten}, rounds)
    graph = getattr(classifier.model, "graph", None)
    used = "torch" if graph is None else f"{graph.name} {graph.precision}"
    shares = [f"{seconds[name] / seconds['forward']:.2f}" for name in ("answer", "rewritten")]
    return f"| {classifier.title} | {used} | {' | '.join(shares)} |"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of every runtime (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="*", default=["f32", "bf16", "int8"])
    parser.add_argument("--models", nargs="*", default=list(BACKBONES.values()), choices=list(BACKBONES.values()))
    parser.add_argument("--space", nargs="*", default=[str(RELEASED / "derm-x-mobilenetv2-ham7")], metavar="DIR")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.threads} of {os.cpu_count()} cores, {given.rounds} rounds, torch {torch.__version__}\n")
    rows = [
        row
        for title, backbone in BACKBONES.items()
        if backbone in given.models
        for row in networks(title, backbone, given.batches, given.precisions, given.rounds)
    ]
    print("| Network | Batch | Runtime | Forward / one eager member | `predict` / forward |\n|---|---:|---|---:|---:|")
    print("\n".join(rows))
    answers = [space(name, backend, given.rounds) for name in given.space for backend in ("torch", "auto")]
    print("\n| Model | Runtime | Answer of the Space with heat map / forward | Afterwards |\n|---|---|---:|---:|")
    print("\n".join(answers))


if __name__ == "__main__":
    main()
