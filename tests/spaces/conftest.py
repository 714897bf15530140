"""What the page's tests share: a tiny model folder, a drawn photo, and the page itself, started as a user starts it."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import processes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datasets_scripts.phantom import draw
from datasets_scripts.taxonomy import TASKS, long_names, malignancy_groups
from hub_models import (
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    FusionForLesionClassification,
    FusionLesionConfig,
    LesionImageProcessor,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
)
from model_cards.manifest import write_manifest
from tests.spaces.in_browser import ARGUMENTS, CHROMIUM
from tests.spaces.other_server import recording, ways

LABELS = TASKS["dermx"]
START_TIMEOUT_S = 240.0  # importing torch, transformers and gradio on a busy machine


# Appended to the shared code of a model on the page: while the file of this name is there, its answers wait; when one
# begins and ends is noted beside it.
HOLD = "LESION_TEST_HOLD"
HELD = f"""
import os, time
_answer = LesionForImageClassification.predict
def _held(self, **given):
    hold = os.environ["{HOLD}"]
    def note(sign):
        with open(hold + ".log", "a") as file: file.write(sign)
    note("+")
    while os.path.exists(hold): time.sleep(0.01)
    try: return _answer(self, **given)
    finally: note("-")
LesionForImageClassification.predict = _held
"""


@dataclass
class Page:
    """A running page: where it is, what it has printed, where it keeps uploads, what holds answers, and its process."""

    url: str
    log: Path
    uploads: Path
    hold: Path
    pid: int = 0

    def answers(self) -> tuple[int, int]:
        """How many answers of the models have begun, and how many have ended."""
        noted = Path(f"{self.hold}.log")
        signs = noted.read_text() if noted.exists() else ""
        return signs.count("+"), signs.count("-")


PARTS = (
    "classifier",
    "measured",
    "model_files",
    "model_loading",
    "image_files",
    "archives",
    "answering",
    "page_images",
    "words",
    "html_band",
    "html_answer",
    "html_views",
    "many",
    "html_tables",
    "html_compare",
    "model_folder",
    "html_about",
    "similar",
    "temporary_files",
    "example_images",
    "service",
)


@pytest.fixture(scope="session")
def parts(repo_root: Path) -> Iterator[SimpleNamespace]:
    """The page's modules, imported as the page imports them, and forgotten afterwards."""
    folder = str(repo_root / "spaces" / "lesion_demo")
    before = set(sys.modules)
    sys.path.insert(0, folder)
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in PARTS}
    yield SimpleNamespace(**modules)
    sys.path.remove(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]


@pytest.fixture
def app(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's main module, imported in this process, whose settings it changes until the test ends."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(traceback, "print_exc", traceback.print_exc)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    record, spaces = logging.getLogRecordFactory(), sys.modules.get("spaces")
    with warnings.catch_warnings():
        yield importlib.import_module("app")
    logging.setLogRecordFactory(record)
    del sys.modules["app"]
    if spaces is None:
        sys.modules.pop("spaces", None)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MobileNet of the suite as a Hub folder, with a temperature and clearly unequal probabilities."""
    folder = tmp_path_factory.mktemp("models") / "tiny-derm-x"
    torch.manual_seed(0)
    config = MobileNetLesionConfig(
        id2label=dict(enumerate(LABELS)),
        label_names=long_names(LABELS),
        label_groups=malignancy_groups(LABELS),
        image_size=64,
        backbone="mobilenetv2_050",
        trust={"temperature": {"value": 1.7, "split": "calibration", "n": 10, "method": "test"}},
    )
    model = MobileNetForLesionClassification(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(6)
    model.save_pretrained(folder)
    LesionImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@dataclass
class Trusted:
    """A model whose trust is fitted by hand, so that it is known what it says of each drawing.

    Attributes:
        folder: its Hub folder.
        images: state on the page -> a drawing that the model says that of.
    """

    folder: Path
    images: dict[str, Path]


@pytest.fixture(scope="session")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Trusted:
    """An ensemble of two random MobileNets; thresholds lie between four drawings: low, moderate, high, ood."""
    home = tmp_path_factory.mktemp("trusted")
    folder, labels = home / "tiny-ensemble", TASKS["ham10000"]
    torch.manual_seed(3)
    members = [{"backbone": "mobilenetv2_050", "backbone_kwargs": {}, "dropout": 0.2}] * 2
    config = EnsembleLesionConfig(
        id2label=dict(enumerate(labels)),
        label_names=long_names(labels),
        label_groups=malignancy_groups(labels),
        image_size=64,
        members=members,
    )
    model = EnsembleForLesionClassification(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("head.weight"):
                value.mul_(8)
    processor = LesionImageProcessor(size={"height": 64, "width": 64})
    drawings = [(label, seed) for label in ("nv", "mel", "bcc", "vasc", "df", "random") for seed in range(2)]
    drawn = [draw(*drawing).image for drawing in drawings]
    model.set_trust(_trust(labels, low=0.0, moderate=0.0, gate_threshold=1e9))
    answers = model.predict(**processor(images=drawn, return_tensors="pt"))
    scores = [answer["ood_score"] for answer in answers]
    most_ood = max(range(len(scores)), key=scores.__getitem__)
    rest = [number for number in range(len(scores)) if number != most_ood]
    doubts = {number: 1 - max(answers[number]["probabilities"].values()) for number in rest}
    calm, middle, high = (sorted(rest, key=doubts.__getitem__)[place] for place in (0, len(rest) // 2, -1))
    gate = (scores[most_ood] + max(scores[number] for number in rest)) / 2
    low, moderate = (doubts[calm] + doubts[middle]) / 2, (doubts[middle] + doubts[high]) / 2
    assert doubts[calm] < low < doubts[middle] < moderate < doubts[high]
    model.set_trust(_trust(labels, low=low, moderate=moderate, gate_threshold=gate))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "figures").mkdir()
    drawn[0].save(folder / "figures" / "gate_test.png")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    write_manifest(folder)
    chosen = {"low": calm, "moderate": middle, "high": high, "ood": most_ood}
    paths = {}
    for name, number in chosen.items():
        paths[name] = home / f"{name}.png"
        drawn[number].save(paths[name])
    return Trusted(folder, paths)


CARD = """---
license: apache-2.0
---
# A card of its own

See its [limits](#limits).
![gate](figures/gate_test.png)
![from elsewhere](https://example.com/spy.png)
<img src="https://example.com/spy2.png">
"""


def _trust(labels: list[str], low: float, moderate: float, gate_threshold: float) -> dict[str, Any]:
    fitted_on = {"split": "calibration", "n": 10}
    prior = [0.5 / (len(labels) - 1)] * len(labels)
    prior[labels.index("nv")] = 0.5
    return {
        "temperature": {"kind": "scalar", "value": 1.0, **fitted_on},
        "prior": {"value": prior, **fitted_on},
        "ood": {
            "detector": "energy", "threshold": gate_threshold, "acceptance": 0.95, "settings": {}, "buffers": {},
            **fitted_on,
        },
        "conformal": {"method": "lac", "alpha": 0.1, "qhat": [0.95] * len(labels), "settings": {}, **fitted_on},
        "bands": {
            "low": {"threshold": low, "risk": 0.05, "confidence": 0.9, **fitted_on},
            "moderate": {"threshold": moderate, "risk": 0.2, "confidence": 0.9, **fitted_on},
        },
        "policy": {"max_set_size": len(labels)},
        "fitted_for": {"inference": "plain", "preprocessing": {}},
    }  # fmt: skip


@pytest.fixture(scope="session")
def fusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fusion of image and metadata, without trust."""
    folder = tmp_path_factory.mktemp("fusion") / "tiny-fusion"
    torch.manual_seed(1)
    fields = ["age", "sex", "localization"]
    config = FusionLesionConfig(
        id2label=dict(enumerate(LABELS)),
        label_names=long_names(LABELS),
        label_groups=malignancy_groups(LABELS),
        image_size=64,
        backbone="mobilenetv2_050",
        metadata_fields=fields,
    )
    FusionForLesionClassification(config).eval().save_pretrained(folder)
    processor = LesionImageProcessor(
        size={"height": 64, "width": 64}, metadata_fields=fields, model_input_names=["pixel_values", "metadata"]
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_server() -> Iterator[SimpleNamespace]:
    """Another server than the page's: its url and the requests that it got."""
    with recording() as server:
        yield server


@pytest.fixture(scope="session")
def page(
    start_page: Callable[..., Any],
    trusted: Trusted,
    model_folder: Path,
    fusion_folder: Path,
    gallery: tuple[Any, Any, list[Any]],
    other_server: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Page]:
    """One page for all tests: the trusted model first, then a plain one, a fusion, and one that is gone.

    The answers of these models can be held. The card of the fusion names another server in all ways.
    """
    home = tmp_path_factory.mktemp("on_page")
    folders = [home / folder.name for folder in (trusted.folder, model_folder, fusion_folder)]
    for folder, copy in zip((trusted.folder, model_folder, fusion_folder), folders, strict=True):
        shutil.copytree(folder, copy)
        with (copy / "modeling_lesion.py").open("a") as file:
            file.write(HELD)
    write_manifest(folders[0])
    card = "# Card\n\n" + "\n\n".join(ways(other_server.url)) + "\n\n## Its end\n"
    (folders[2] / "README.md").write_text(card, encoding="utf-8")
    models = ",".join([*map(str, folders), "/nowhere/gone"])
    with start_page(models, LESION_GALLERY=str(gallery[0])) as running:
        yield running


def dhash_by_hand(image: Image.Image) -> str:
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int)
    bits = "".join("1" if grey[y, x + 1] > grey[y, x] else "0" for y in range(8) for x in range(8))
    return f"{int(bits, 2):016x}"


@pytest.fixture(scope="session")
def gallery(parts: Any, trusted: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, list[Any]]:
    """Twelve drawn cases of ten lesions, with the trusted model's features; the first is the query itself."""
    classifier = parts.model_loading.load(parts.classifier.ModelSource(str(trusted.folder)))
    query = parts.image_files.read_image(trusted.images["low"])
    cases = [
        (query, "L0"),
        (draw("nv", 77).image, "L0"),
        *((draw("bkl", 20 + n).image, f"L{n // 2 + 1}") for n in range(4)),
    ]
    cases += [(draw("mel", 30 + n).image, f"M{n}") for n in range(7)]
    rows = []
    for number, (image, lesion) in enumerate(cases):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        rows.append(
            {
                "image_id": f"I{number}", "lesion_id": lesion, "group_id": lesion,
                "label": "bkl" if lesion[0] == "L" else "mel",
                "features": parts.similar.features_of(image, classifier, {}).astype(np.float16),
                "thumbnail": buffer.getvalue(), "dhash": dhash_by_hand(image), "license": "CC0", "attribution": "drawn",
            }
        )  # fmt: skip
    dim = len(rows[0]["features"])
    folder = tmp_path_factory.mktemp("gallery")
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "features"}
    flat = pa.array(np.concatenate([row["features"] for row in rows]), pa.float16())
    columns["features"] = pa.FixedSizeListArray.from_arrays(flat, dim)
    pq.write_table(pa.table(columns), folder / "gallery.parquet")
    facts = {
        "format_version": 1,
        "model": {"name": trusted.folder.name, "title": "x", "commit": None},
        "dataset": {"name": "drawn", "config_name": "grouped", "split": "train"},
        "labels": {"bkl": "Keratosis", "mel": "Melanoma"},
        "dim": dim, "similarity": "cosine", "n": len(rows), "license": "CC0", "created": "2026-01-01",
        "command": "by hand",
    }  # fmt: skip
    (folder / "gallery.json").write_text(json.dumps(facts))
    return folder, classifier, rows


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn lesion, not a photograph."""
    path = tmp_path_factory.mktemp("photos") / "phantom.png"
    path.write_bytes(draw("mel", 2).png())
    return path


@pytest.fixture(scope="session")
def expected(model_folder: Path, photo: Path) -> dict[str, Any]:
    """What the model says of the drawn lesion in plain Python."""
    model = MobileNetForLesionClassification.from_pretrained(model_folder).eval()
    processor = LesionImageProcessor.from_pretrained(model_folder)
    with Image.open(photo) as image:
        return model.predict(**processor(images=image, return_tensors="pt"), trust=False)[0]


@pytest.fixture(scope="session")
def start_page(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Start spaces/lesion_demo/app.py from the repository's root as a process of its own; a context manager."""
    home = tmp_path_factory.mktemp("page_hf")

    @contextlib.contextmanager
    def start(models: str, **environment: str) -> Iterator[Page]:
        folder = tmp_path_factory.mktemp("page")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {
            "LESION_MODELS": models,
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            HOLD: str(folder / "hold"),
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO_SERVER", "SPACE", "SYSTEM"))}
        page = Page(f"http://127.0.0.1:{port}", folder / "log.txt", folder / "uploads", folder / "hold")
        process = processes.Process(
            [sys.executable, "spaces/lesion_demo/app.py"],
            cwd=repo_root,
            env={**inherited, **own, **environment},
            stdout=str(page.log),
            stderr=str(page.log),
        )
        page.pid = process.pid
        try:
            _wait(page, process)
            yield page
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return start


def _wait(page: Page, process: processes.Process) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(page.url, timeout=10):
            return
        time.sleep(0.3)
    pytest.fail(f"the page did not start; it printed:\n{page.log.read_text(errors='replace')}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window; of one file, as playwright's event loop is in the way of others of the process."""
    if not CHROMIUM.exists():
        why = f"no Chromium at {CHROMIUM}; install the package chromium"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        chromium.new_context().new_page()  # the tab that the tests take one after the other
        yield chromium
        chromium.close()
