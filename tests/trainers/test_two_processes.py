"""Each train script on two CPU processes: every image once, gradients averaged, metrics gathered without repeats.

``ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2`` (gloo), or its environment. The scripts run as they are;
``process_worker.py`` writes down what their Trainers saw.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from processes import run as run_alone
from processes import run_ranks
from safetensors.torch import load_file

from model_cards.verify import verify_folder
from trainers.model_folder.data import EpochSampler, load_splits

HERE = Path(__file__).resolve().parent
WORKER = HERE / "process_worker.py"
SCRIPTS = HERE.parents[1] / "trainers"
# torchrun, whose processes are forks of it: they need not import torch again.
TORCHRUN = """
import runpy, sys
from torch.distributed import run
from torch.distributed.launcher.api import elastic_launch

def script(unbuffered, *words):
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")

def forking(config, entrypoint):
    config.start_method = "fork"
    return elastic_launch(config, script)

run.elastic_launch = forking
run.main(sys.argv[1:])
"""
TINY_VIT = {
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
# What makes each script small. 10 a process do not divide the 96 images: 20, 20, 20, 20, then 16 and 4 to fill up.
TIMM_KWARGS = ("--model_config", '{"backbone_kwargs": {}}')
FROM_SCRATCH = ("--backbone_weights", "none", "--metadata_weights", "")
OPTIONS: dict[str, tuple[str, ...]] = {
    "train_efficientnet": ("--recipe", "demo", "--backbone", "test_efficientnet", *TIMM_KWARGS),
    "train_ensemble": ("--recipe", "demo", "--backbone", "test_resnet", "--members", "2", "--mc_dropout_samples", "2"),
    "train_fusion": (
        "--backbone",
        "test_efficientnet",
        *TIMM_KWARGS,
        "--backbone_weights",
        "none",
        "--metadata_weights=",
    ),
    "train_metadata": (),
    "train_mobilenet": ("--recipe", "demo", "--backbone", "mobilenetv2_035"),
    "train_resnet": ("--recipe", "demo", "--backbone", "test_resnet"),
    "train_vit": ("--backbone_weights", "none", "--model_config", json.dumps(TINY_VIT), "--learning_rate", "1e-3"),
}
BATCH = {"train_vit": 8}
EPOCHS = {"train_mobilenet": 2, "train_vit": 2}  # of the others 1: it is the same Trainer
BY_TORCHRUN = "train_metadata"  # the others are started as torchrun starts them, without its own imports
SMALL = (
    *("--image_size", "32", "--per_device_eval_batch_size", "5", "--ema_decay", "0"),
    *("--dataloader_num_workers", "0", "--disable_tqdm", "true", "--precision", "fp32", "--sampling", "uniform"),
    *("--bootstrap_replicates", "20"),
)


def launch(script: str, processes: int, batch: int, dataset: Path, folder: Path, env: dict[str, str]) -> None:
    """Run a train script; what its Trainer saw stands in ``folder``, its finished model in ``folder/model``."""
    folder.mkdir()
    words = command_line(script, batch, dataset, folder)
    command = [sys.executable, str(WORKER), str(folder), *words]
    env = {**env, "ACCELERATE_USE_CPU": "true"}
    if processes > 1 and script == BY_TORCHRUN:
        torchrun([str(WORKER), str(folder), *words], env)
    else:
        run_ranks(command, processes, env=env)


def command_line(script: str, batch: int, dataset: Path, folder: Path) -> list[str]:
    options = (*OPTIONS[script], *SMALL, "--per_device_train_batch_size", str(batch), "--dataset", str(dataset))
    epochs = ("--num_train_epochs", str(EPOCHS.get(script, 1)))
    return [str(SCRIPTS / f"{script}.py"), *options, *epochs, "--output_dir", str(folder / "model")]


def torchrun(words: list[str], env: dict[str, str]) -> None:
    done = run_alone(
        [sys.executable, "-c", TORCHRUN, "--standalone", "--nproc_per_node", "2", *words], env=env, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


def seen(folder: Path, rank: int, run: int = 0) -> dict[str, Any]:
    """What the worker wrote down on one process."""
    return torch.load(folder / f"rank{rank}_run{run}.pt", weights_only=True)


@pytest.fixture(scope="module")
def two_processes(phantom_dataset: Path, quiet_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: the folder of one script's run on two processes, made once."""
    made: dict[str, Path] = {}

    def of(script: str) -> Path:
        if script not in made:
            made[script] = tmp_path_factory.mktemp("two") / script
            launch(script, 2, BATCH.get(script, 10), phantom_dataset, made[script], quiet_env)
        return made[script]

    return of


def test_every_script_is_here() -> None:
    # The autoencoder has no labels to score: autoencoding/test_two_autoencoder_processes.py is its own. A classifier on
    # any backbone is trained by the same code as MobileNetV2, a probe without the Trainer.
    others = ["train_autoencoder", "train_image_classifier", "train_probe"]
    assert sorted([*OPTIONS, *others]) == sorted(path.stem for path in SCRIPTS.glob("train_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(OPTIONS))
def test_two_processes_train_one_model(script: str, two_processes: Any, phantom_dataset: Path) -> None:
    folder, batch, epochs = two_processes(script), BATCH.get(script, 10), EPOCHS.get(script, 1)
    assert verify_folder(folder / "model") == []
    report = json.loads((folder / "model" / "report.json").read_text())
    assert report["provenance"]["hardware"]["processes"] == 2
    labels = load_splits(str(phantom_dataset), "grouped").splits["train"]["label"][:]
    runs = len(list(folder.glob("rank0_run*.pt")))
    assert runs == len(report["training"].get("members", [0]))
    for run in range(runs):
        both = [seen(folder, rank, run) for rank in (0, 1)]
        assert [one["processes"] for one in both] == [2, 2]

        # Every image once per epoch, in the order that one process would take them, batch by batch to each in turn.
        # What is lacking in the last step is filled up with the epoch's first images.
        sampler = EpochSampler(torch.tensor(labels).numpy(), "uniform", 42 + run)
        expected: list[list[int]] = [[], []]
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            order = [index for index, _ in sampler]
            assert sorted(order) == list(range(len(labels)))
            order += order[: -len(order) % (2 * batch)]
            for start in range(0, len(order), batch):
                expected[start // batch % 2] += order[start : start + batch]
        assert [one["requested"] for one in both] == expected

        # The same gradients, so the same weights; and the same choice of the epoch to keep.
        for when in ("last", "kept"):
            for name, value in both[0][when].items():
                assert torch.equal(value, both[1][when][name]), name

        # 16 validation images in batches of 5 and 5, then 5 and 1: each answer comes back once, in order.
        for one in both:
            assert len(one["evaluations"]) == epochs
            for evaluation in one["evaluations"]:
                assert evaluation["n"] == 16
                assert evaluation["labels"] == one["validation"]
        metrics = [one["evaluations"][-1]["metrics"] for one in both]
        assert metrics[0]["eval_macro_f1"] == metrics[1]["eval_macro_f1"]


@pytest.mark.slow
def test_two_processes_do_what_one_does_on_the_same_batches(
    two_processes: Any, phantom_dataset: Path, quiet_env: dict[str, str], tmp_path: Path
) -> None:
    """The ViT has no batch normalisation: two batches of 8 and one of 16 are the same step."""
    launch("train_vit", 1, 16, phantom_dataset, tmp_path / "one", quiet_env)
    one = seen(tmp_path / "one", 0)
    first, second = (seen(two_processes("train_vit"), rank) for rank in (0, 1))
    assert one["processes"] == 1
    assert first["requested"][:8] + second["requested"][:8] == one["requested"][:16]
    averaged = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert len(averaged) == len(one["losses"]) == 12
    assert averaged == pytest.approx(one["losses"], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(first["losses"], second["losses"], strict=True)) > 0.01
    for name, value in one["last"].items():
        torch.testing.assert_close(first["last"][name], value, rtol=1e-4, atol=1e-4, msg=name)
    for ours, theirs in zip(one["evaluations"], first["evaluations"], strict=True):
        assert ours["metrics"]["eval_nll"] == pytest.approx(theirs["metrics"]["eval_nll"], abs=1e-4)
        assert ours["metrics"]["eval_macro_f1"] == theirs["metrics"]["eval_macro_f1"]


def without_signs(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with products in place of the gate's directions, whose signs are arbitrary: rounding decides them."""
    directions, means = state["trust.projection"], state["trust.class_means"]
    return {**state, "trust.projection": directions @ directions.T, "trust.class_means": means @ directions.T}


@pytest.mark.slow
def test_fsdp_trains_the_same_vit(
    two_processes: Any, phantom_dataset: Path, quiet_env: dict[str, str], tmp_path: Path
) -> None:
    """Split weights under the shipped config: the finished, gathered model is the one that plain averaging gives."""
    words = ["--config_file", str(SCRIPTS / "launch" / "fsdp_vit_large.yaml"), "train_vit.py"]
    asked, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    told = {name: value for name, value in prepare_multi_gpu_env(asked).items() if name not in os.environ}
    assert told["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "ViTLayer"
    words = command_line("train_vit", BATCH["train_vit"], phantom_dataset, tmp_path)
    command = [sys.executable, str(HERE / "fsdp_worker.py"), *words]
    run_ranks(command, 2, env={**quiet_env, **told, "ACCELERATE_USE_CPU": "true"})
    assert verify_folder(tmp_path / "model") == []
    split = load_file(tmp_path / "model" / "model.safetensors")
    whole = load_file(two_processes("train_vit") / "model" / "model.safetensors")
    assert split.keys() == whole.keys()
    split, whole = without_signs(split), without_signs(whole)
    for name, value in whole.items():
        loose = name.startswith("trust.")
        torch.testing.assert_close(
            split[name],
            value,
            rtol=1e-3 if loose else 1e-5,
            atol=1e-3 * float(value.abs().max()) if loose else 1e-6,
            msg=name,
        )
