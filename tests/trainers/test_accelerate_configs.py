"""The accelerate configs: what accelerate's own loader and launcher make of each, and our trainers of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from torch.distributed.fsdp import CPUOffloadPolicy

from datasets_scripts.command import UserError
from hub_models import ViTForLesionClassification, ViTLesionConfig
from trainers.training.arguments import parse

CONFIGS = Path(__file__).resolve().parents[2] / "trainers" / "launch"
NAMES = ("fsdp_vit_large", "multi_gpu", "multi_machine", "one_gpu_fp16")


def launched(name: str, *more: str) -> tuple[Any, dict[str, str]]:
    """The arguments and the environment that ``accelerate launch --config_file`` gives the script."""
    words = ["--config_file", str(CONFIGS / f"{name}.yaml"), *more, "trainers/train_vit.py"]
    given, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    several = given.multi_gpu or given.use_fsdp
    return given, prepare_multi_gpu_env(given) if several else prepare_simple_launcher_cmd_env(given)[1]


def test_these_are_all() -> None:
    assert sorted(path.stem for path in CONFIGS.iterdir()) == list(NAMES)


@pytest.mark.parametrize(
    ("name", "kind", "precision", "machines", "processes"),
    [
        ("one_gpu_fp16", DistributedType.NO, "fp16", 1, 1),
        ("multi_gpu", DistributedType.MULTI_GPU, "fp16", 1, 4),
        ("multi_machine", DistributedType.MULTI_GPU, "fp16", 2, 8),
        ("fsdp_vit_large", DistributedType.FSDP, "bf16", 1, 2),
    ],
)
def test_accelerate_reads_each(name: str, kind: DistributedType, precision: str, machines: int, processes: int) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert (config.mixed_precision, config.num_machines, config.num_processes) == (precision, machines, processes)
    assert (config.use_cpu, config.main_training_function) == (False, "main")
    assert (config.fsdp_config != {}) == (kind == DistributedType.FSDP)
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert f"accelerate launch --config_file trainers/launch/{name}.yaml" in text


def test_one_gpu_is_one_process_on_one_card() -> None:
    given, env = launched("one_gpu_fp16")
    assert not given.multi_gpu
    assert (env["CUDA_VISIBLE_DEVICES"], env["ACCELERATE_MIXED_PRECISION"]) == ("0", "fp16")
    assert launched("one_gpu_fp16", "--gpu_ids", "3")[1]["CUDA_VISIBLE_DEVICES"] == "3"


def test_several_gpus() -> None:
    given, env = launched("multi_gpu", "--num_processes", "2")
    assert (given.multi_gpu, given.nproc_per_node, env["ACCELERATE_MIXED_PRECISION"]) == (True, "2", "fp16")


def test_several_machines() -> None:
    given, _ = launched("multi_machine", "--main_process_ip", "node0", "--machine_rank", "1")
    # 8 processes in all are 4 on each of the 2 machines.
    assert (given.nnodes, given.nproc_per_node, given.node_rank) == ("2", "4", 1)
    assert (given.rdzv_backend, given.rdzv_endpoint) == ("static", "node0:29500")


def test_fsdp_splits_the_layers_of_the_vit(monkeypatch: pytest.MonkeyPatch) -> None:
    given, env = launched("fsdp_vit_large")
    assert (given.use_fsdp, given.nproc_per_node) == (True, "2")
    for name, value in env.items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.cpu_ram_efficient_loading is plugin.activation_checkpointing is False
    assert not isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    assert "SHARDED_STATE_DICT" in str(plugin.state_dict_type)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.param_dtype is torch.bfloat16
    with torch.device("meta"):
        model = ViTForLesionClassification(ViTLesionConfig(num_labels=12))
    plugin.set_auto_wrap_policy(model)
    policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert policy is not None
    units = [name for name, module in model.named_modules() if policy(module)]
    assert units == [f"backbone.layers.{index}" for index in range(24)]


@pytest.mark.parametrize(
    ("launcher", "given", "cuda", "flags"),
    [
        ("fp16", "auto", True, (True, False, "fp16")),
        ("bf16", "auto", True, (False, True, "bf16")),
        ("no", "auto", True, (True, False, "fp16")),
        ("fp16", "fp32", True, (False, False, "no")),
        ("fp16", "bf16", True, (False, True, "bf16")),
        ("bf16", "auto", False, (False, True, "bf16")),
    ],
)
def test_our_precision_follows_the_launcher_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, launcher: str, given: str, cuda: bool, flags: tuple[bool, bool, str]
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr("transformers.training_args.TrainingArguments.device", torch.device("cpu"))
    _, training, resolved = parse(["--output_dir", "out", "--precision", given], "vit")
    assert (training.fp16, training.bf16, training.mixed_precision) == flags
    assert resolved["precision"] == {"no": "fp32"}.get(flags[2], flags[2])


def test_an_fp16_launch_without_a_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="precision 'fp16' needs a CUDA device"):
        parse(["--output_dir", "out"], "vit")
