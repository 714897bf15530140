"""What runs the network on a CPU: torch, torch with fewer operations, or an exported graph in another runtime.

``python -m trainers.export`` writes the graph beside the weights, and ``exported.json`` with the sha256 of the weights
that it was made from. The graph gives pooled features and the statistics of the early layers. All that follows (head,
temperature, gate, sets, bands) stays in torch, so that an answer has the same keys. Of the model's own folder or
repository alone, files of fixed names are read; a graph is data, and no code is run.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from transformers.utils import cached_file

from .infer_lesion import in_torch, torch_alone

EXPORTED = "exported.json"
WEIGHTS = "model.safetensors"
SCHEMA_VERSION = 1
# Format -> its files, the graph first; and the package that runs it. ``auto`` takes the first that there is.
FILES = {"openvino": ("openvino_model.xml", "openvino_model.bin"), "onnx": ("model.onnx",)}
RUNTIMES = {"openvino": "openvino", "onnx": "onnxruntime"}
FOLDED = "folded"
BACKENDS = ("auto", "torch", FOLDED, *FILES)
FEATURES, EARLY_STATISTICS = "features", "early"
# The class logits, for programs that run the graph without this code.
RAW_LOGITS = "raw_logits"

Arrays = Mapping[str, Any]
Run = Callable[[Arrays], dict[str, Any]]
Encoded = tuple[torch.Tensor, torch.Tensor | None]
logger = logging.getLogger(__name__)


class BackendError(ValueError):
    """A graph that does not exist, does not belong to the weights, or cannot be run here."""


class Graph:
    """A network in another runtime; safe for several threads.

    Args:
        name: ``openvino`` or ``onnx``.
        paths: its files, in the order of ``FILES``.
        precision: ``f32``, ``bf16`` or ``int8``.
    """

    def __init__(self, name: str, paths: list[Path], precision: str) -> None:
        self.name, self.precision = name, precision
        opened = _open_openvino if name == "openvino" else _open_onnx
        self.shapes, self.outputs, self._run = opened(paths, precision)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self  # it holds no state of one model in memory

    def takes(self, inputs: Mapping[str, torch.Tensor | None]) -> bool:
        """Whether inputs are all there, in float32, and have the shapes that the graph was made for (any N)."""
        return inputs.keys() == self.shapes.keys() and all(
            value is not None
            and value.dtype == torch.float32
            and value.device.type == "cpu"
            and len(value) > 0
            and tuple(value.shape[1:]) == self.shapes[name]
            for name, value in inputs.items()
        )

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs (N, ...) -> ``features`` (N, D), ``early`` (N, E) where the model has early layers, ``raw_logits``."""
        found = self._run({name: value.contiguous().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def encode(self, inputs: Mapping[str, torch.Tensor], early: bool) -> Encoded:
        """Features (N, D), and statistics of the early layers (N, E) where ``early`` and the model has some."""
        found = self.run(inputs)
        return found[FEATURES], found.get(EARLY_STATISTICS) if early else None


def load_graph(model: Any, backend: str) -> Graph | None:
    """The graph of a model that was loaded from a folder or a repository; None = torch.

    Args:
        model: the classifier, on the device where it will run.
        backend: ``auto`` = a graph that is there and whose runtime is installed, otherwise torch, with one line in the
            log where there is a graph that cannot be used; ``torch`` or ``folded`` = none; a format = that one.

    Raises:
        BackendError: there is no such backend; or one was requested by name and has no graph here, is not installed,
            or its graph does not belong to the weights.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend is {backend!r}; choose one of {', '.join(BACKENDS)}.")
    if backend in ("torch", FOLDED):
        return None
    try:
        described = read_exported(model.config)
        wanted = [name for name in FILES if backend in ("auto", name) and name in described["graphs"]]
        if not wanted and backend == "auto":
            return None
        if not wanted:
            raise BackendError(
                f"this model has no graph for {backend}; make one with `python -m trainers.export --format {backend}`, "
                'or choose "torch".'
            )
        if model.device.type != "cpu":
            raise BackendError(f'a graph runs on the CPU and the model is on {model.device}; choose "torch".')
        installed = [name for name in wanted if find_spec(RUNTIMES[name])]
        if not installed:
            package = RUNTIMES[wanted[0]]
            raise BackendError(f"{package} is not installed; install it with `pip install {package}`.")
        return _checked_graph(model.config, described, installed[0])
    except BackendError as error:
        if backend != "auto":
            raise
        logger.warning("The model runs with torch: %s", error)
        return None


def read_exported(config: Any) -> dict[str, Any]:
    """``exported.json`` of a loaded model's folder or repository: ``graphs`` by format; none where there is no file.

    Raises:
        BackendError: it cannot be read, or is of a newer layout.
    """
    path = _fetched(config, EXPORTED)
    if path is None:
        return {"graphs": {}}
    try:
        return parse_exported(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise BackendError(f"{EXPORTED} cannot be read ({error}); export the model again.") from error


def parse_exported(content: Any) -> dict[str, Any]:
    """The parsed ``exported.json``, with all that this file reads.

    Raises:
        BackendError: a value is missing or of another kind.
    """
    graphs = content.get("graphs") if isinstance(content, dict) else None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION or not isinstance(graphs, dict) or not isinstance(content.get("weights_sha256"), str):
        raise BackendError(f"{EXPORTED} has another layout than {SCHEMA_VERSION}; export the model again.")
    for name, about in graphs.items():
        files = about.get("files") if isinstance(about, dict) else None
        if name not in FILES or not isinstance(files, dict) or set(files) != set(FILES[name]):
            raise BackendError(f"{EXPORTED} has an unknown graph {str(name)[:40]!r}; export the model again.")
    return content


def digest_of(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _checked_graph(config: Any, described: dict[str, Any], name: str) -> Graph:
    """The graph of one format, after a check that its files and the weights are those of the export."""
    about = described["graphs"][name]
    paths = []
    for file in (WEIGHTS, *FILES[name]):
        wanted = described["weights_sha256"] if file == WEIGHTS else about["files"][file]
        path = _fetched(config, file)
        if path is None:
            raise BackendError(f"{file} is missing beside {EXPORTED}; export the model again.")
        if digest_of(path) != wanted:
            raise BackendError(f"{file} is not the file that {EXPORTED} names; export the model again.")
        paths.append(path)
    try:
        return Graph(name, paths[1:], str(about.get("precision", "f32")))
    except (RuntimeError, ValueError, OSError, ImportError) as error:  # of the runtime
        text = " ".join(str(error).split()) or type(error).__name__
        raise BackendError(f"{RUNTIMES[name]} cannot run the graph ({text[:200]}); export the model again.") from error


def _fetched(config: Any, file: str) -> Path | None:
    """A file of the folder or repository that a model was loaded from; None where there is none."""
    location, revision = getattr(config, "_name_or_path", ""), getattr(config, "_commit_hash", None)
    if not location:
        return None
    try:
        path = cached_file(
            location,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return None if path is None else Path(path)


# ------------------------------------------------------------------ runtimes


def import_runtime(name: str) -> Any:
    """Import an optional package by name.

    OpenVINO and NNCF report each use to a statistics server unless ``openvino_telemetry`` is missing. Here it is.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module(name)


def _open_openvino(paths: list[Path], precision: str) -> tuple[dict[str, tuple[int, ...]], list[str], Run]:
    core = import_runtime("openvino").Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Without it OpenVINO chooses bf16 by itself where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    compiled = core.compile_model(core.read_model(*map(str, paths)), "CPU", settings)
    names = [output.get_any_name() for output in compiled.outputs]
    shapes = {
        one.get_any_name(): tuple(int(side.get_length()) for side in list(one.partial_shape)[1:])
        for one in compiled.inputs
    }
    own = threading.local()  # a request serves one thread at a time

    def run(arrays: Arrays) -> dict[str, Any]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer(dict(arrays), share_inputs=True)
        return {name: found[number] for number, name in enumerate(names)}

    return shapes, names, run


def _open_onnx(paths: list[Path], precision: str) -> tuple[dict[str, tuple[int, ...]], list[str], Run]:
    runtime = import_runtime("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # From memory: a graph in memory cannot name further files.
    session = runtime.InferenceSession(paths[0].read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    shapes = {one.name: tuple(one.shape[1:]) for one in session.get_inputs()}

    def run(arrays: Arrays) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))

    return shapes, names, run


# --------------------------------------------- torch, with fewer operations


class Folded:
    """A copy of a model in torch whose convolutions hold the batch normalisation that follows them; for inference.

    Args:
        model: the classifier, in eval mode, in float32 on the CPU; it is left as it is.

    Attributes:
        layers: how many normalisations were folded.
    """

    name, precision = FOLDED, "f32"

    def __init__(self, model: Any) -> None:
        self.copy = copy.deepcopy(model)
        self.copy.config = model.config  # one config: what is fitted later holds for both
        with torch.no_grad():
            self.layers = sum(map(fold_batch_norm, self.copy.pretrained_parts()))

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None  # the copy of a model may get other weights

    def takes(self, inputs: Mapping[str, torch.Tensor | None]) -> bool:
        """Whether inputs are in float32 on the CPU."""
        return all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in inputs.values())

    def encode(self, inputs: Mapping[str, torch.Tensor | None], early: bool) -> Encoded:
        """Features (N, D), and statistics of the early layers (N, E) where ``early``."""
        self.copy.give_early = early
        features, statistics, _ = self.copy.run_encoder(*inputs.values(), output_hidden_states=False)
        return features, statistics


def fold_batch_norm(module: nn.Module) -> int:
    """Multiply each batch normalisation that follows a convolution into its weights, in place; returns how many.

    "Follows" by the order of definition, which need not be that of the computation: the caller compares outputs.
    """
    folded = 0
    before: Any = None
    child: Any
    for name, child in list(module.named_children()):
        follows = isinstance(before, nn.Conv2d) and isinstance(child, nn.BatchNorm2d)
        if follows and child.running_mean is not None and before.out_channels == child.num_features:
            statistics = child.running_mean, child.running_var, child.eps, child.weight, child.bias
            before.weight, before.bias = fuse_conv_bn_weights(before.weight, before.bias, *statistics)
            # timm's normalisation layers hold the activation.
            rest = [part for kind in ("drop", "act") if (part := getattr(child, kind, None)) is not None]
            setattr(module, name, nn.Sequential(*rest))
            folded, before = folded + 1, None
        else:
            folded, before = folded + fold_batch_norm(child), child
    return folded


def fold(model: Any) -> Folded | None:
    """The faster copy of a model; None where there is nothing to fold, or it computes something else."""
    first = next(model.parameters(), None)
    if model.training or first is None or first.device.type != "cpu" or first.dtype != torch.float32:
        return None
    if not any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        return None
    with torch.inference_mode(False):  # its weights are kept and may be copied with the model
        found = Folded(model)
    given = model.fixed_inputs()
    fixed = [given.get(name) for name in model.input_names]
    with torch.inference_mode(), in_torch():
        expected, features = (one.run_encoder(*fixed)[0] for one in (model, found.copy))
    close = bool((features - expected).abs().max() <= 1e-3 * expected.abs().max())
    return found if found.layers and close else None


# ------------------------------------------------------- in the forward pass


def run_graph(model: Any, inputs: tuple[torch.Tensor | None, ...], early: bool) -> Encoded | None:
    """Features (N, D) and early statistics (N, E) or None by the model's graph; None where torch must run.

    Args:
        model: the classifier.
        inputs: of ``encode``.
        early: whether the statistics are needed.
    """
    graph = model.graph
    if graph is None or model.training or torch.is_grad_enabled() or torch_alone():
        return None
    named = dict(zip(model.input_names, inputs, strict=False))
    if not graph.takes(named):
        return None
    return graph.encode(named, early)


class RunsGraph:
    """The part of a classifier that chooses what runs its network; one of its bases."""

    # The network in another form; None = torch, as stored.
    graph: Graph | Folded | None = None

    def use_backend(self, backend: str = "auto") -> str:
        """Choose what runs the network on a CPU.

        Args:
            backend: ``torch``: the modules as they are; ``folded``: the same with batch normalisation folded into the
                convolutions; ``openvino`` or ``onnx``: the exported graph beside the weights; ``auto``: a graph whose
                runtime is installed, otherwise folded where that gives the same features, otherwise torch.

        Returns:
            The backend in use. Gradients, heat maps, hidden states and dropout inside the backbone run the modules as
            they are in any case, and a graph takes one size of images alone.

        Raises:
            BackendError: as :func:`load_graph`, or nothing can be folded.
        """
        self.graph = load_graph(self, backend) or (fold(self) if backend in ("auto", FOLDED) else None)
        if self.graph is None and backend == FOLDED:
            raise BackendError('nothing can be folded in this model as it is loaded; choose "torch".')
        return "torch" if self.graph is None else self.graph.name
