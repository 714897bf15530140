"""The 12-class ViT's recipe and run, layer-wise learning rates, and the full-size ViT-L once."""

from __future__ import annotations

import csv
import gc
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from card_text import folder_card
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from datasets_scripts.build_phantom import main as build_phantom
from datasets_scripts.command import UserError
from hub_models import (
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    ViTForLesionClassification,
    ViTLesionConfig,
)
from model_cards.verify import verify_folder
from trainers.model_folder.data import EpochSampler, load_splits
from trainers.model_folder.finish import base_model
from trainers.training.arguments import LesionArguments, parse
from trainers.training.losses import make_loss
from trainers.training.train import classifier, run, train
from trainers.training.trainer import LesionTrainer, layer_rates, parameter_groups
from trainers.training.training_arguments import LesionTrainingArguments

TINY = {
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
SMALL = (
    *("--image_size", "32", "--num_train_epochs", "2", "--bootstrap_replicates", "20", "--dataloader_num_workers", "0"),
    *("--disable_tqdm", "true", "--precision", "fp32", "--learning_rate", "3e-3"),
)


@pytest.fixture(scope="module")
def lesions12(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 drawn images of the twelve classes."""
    out = tmp_path_factory.mktemp("data") / "lesions12"
    build_phantom(["--task", "lesions12", "--images", "192", "--seed", "1", "--size", "48x36", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def melanoma_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny 3-class ViT with its image processor, as published checkpoints are."""
    folder = tmp_path_factory.mktemp("checkpoints") / "vit-melanoma"
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(num_labels=3, image_size=48, **TINY)).save_pretrained(folder)
    ViTImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------- recipe


def test_the_recipe_carries_the_published_settings() -> None:
    options, training, _ = parse(["--output_dir", "out", "--precision", "fp32"], "vit")
    assert (training.learning_rate, training.num_train_epochs) == (2e-5, 3)
    assert (training.per_device_train_batch_size, training.per_device_eval_batch_size) == (8, 16)
    assert training.optim == "adamw_torch_fused"
    assert training.weight_decay == 0.01  # AdamW's default in torch
    assert (options.image_size, options.backbone_weights) == (384, "google/vit-large-patch32-384")
    assert (options.dataset, options.sampling, options.class_weights) == ("data/lesions12", "uniform", "none")
    off = (training.layer_decay, training.gradient_checkpointing, options.ema_decay, options.model_config)
    assert off == (1.0, False, 0.0, "")


def test_a_repo_that_it_starts_from_is_its_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    message = ("google/vit-large-patch32-384", "outputs/model", str(tmp_path), "none", "timm")
    expected = ["google/vit-large-patch32-384", None, None, None, "timm/resnet50.a1_in1k"]
    assert [base_model(weights, ["resnet50"]) for weights in message] == expected
    assert base_model("timm", ["no_such_backbone"]) is None


@pytest.mark.parametrize("value", ["0", "1.5", "-0.5", "nan"])
def test_a_layer_decay_outside_its_range_is_named(value: str) -> None:
    with pytest.raises(UserError, match=rf"layer_decay {float(value)}: give a factor in \(0, 1\]"):
        parse(["--output_dir", "out", "--precision", "fp32", "--layer_decay", value], "vit")


# ----------------------------------------------------------- layer-wise rates


def test_rates_fall_from_the_head_to_the_input() -> None:
    assert layer_rates([["a", "b"], ["c"], ["d"]], 0.8, 0.5) == {"a": 0.2, "b": 0.2, "c": 0.4, "d": 0.8}


def test_each_parameter_of_a_vit_has_its_layers_rate_once() -> None:
    model = ViTForLesionClassification(ViTLesionConfig(num_labels=3, image_size=32, **TINY))
    shrunk = {name for name, value in model.named_parameters() if value.ndim > 1}
    groups = parameter_groups(model, 1e-3, 0.5, 0.01, shrunk)
    names = {id(value): name for name, value in model.named_parameters()}
    found = [(names[id(value)], group["lr"], group["weight_decay"]) for group in groups for value in group["params"]]
    assert sorted(name for name, _, _ in found) == sorted(names.values())
    for name, rate, shrinks in found:
        # Two layers: the embeddings are three steps from the head, layer 0 two, layer 1 one.
        steps = 3 if "embeddings" in name else 2 if ".layers.0." in name else 1 if ".layers.1." in name else 0
        assert rate == pytest.approx(1e-3 * 0.5**steps), name
        assert shrinks == (0.01 if name in shrunk else 0.0), name
    assert groups[0]["lr"] == 1e-3  # what the Trainer logs


def test_a_cnn_has_two_groups_and_a_frozen_one_learns_nothing() -> None:
    config = MobileNetLesionConfig(num_labels=3, backbone="mobilenetv2_035")
    model = MobileNetForLesionClassification(config)
    groups = parameter_groups(model, 1.0, 0.1, 0.0, set())
    sizes = [(group["lr"], sum(value.numel() for value in group["params"])) for group in groups]
    head = sum(value.numel() for value in model.head.parameters())
    assert sizes == [(1.0, head), (0.1, model.num_parameters() - head)]
    config.freeze_backbone = True
    frozen = parameter_groups(MobileNetForLesionClassification(config), 1.0, 0.1, 0.0, set())
    assert [sum(value.numel() for value in group["params"]) for group in frozen] == [head]


def test_groups_that_leave_out_or_repeat_a_parameter_are_refused() -> None:
    class Wrong(nn.Linear):
        def layer_groups(self) -> list[list[str]]:
            return self.groups

    model = Wrong(2, 2)
    for groups, named in (
        ([["weight"]], "'bias'"),
        ([["weight", "bias"], ["bias"]], "'bias'"),
        ([["weight", "bias", "x"]], "'x'"),
    ):
        model.groups = groups
        with pytest.raises(ValueError, match=named):
            parameter_groups(model, 1.0, 0.5, 0.0, set())


class Noise(Dataset):
    """A few random images, in memory."""

    def __init__(self, size: int, n: int) -> None:
        self.pixels = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.labels = np.arange(n) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        index = key[0] if isinstance(key, tuple) else key
        return {"pixel_values": self.pixels[index], "labels": int(self.labels[index])}


def a_trainer(model: Any, folder: Path, data: Noise, **changes: Any) -> LesionTrainer:
    """The suite's own Trainer, without evaluation or checkpoints."""
    values = {"output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "dataloader_num_workers": 0}
    values |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    values |= {"dataloader_persistent_workers": False, **changes}
    return LesionTrainer(
        model=model,
        args=LesionTrainingArguments(**values),
        train_dataset=data,
        loss=make_loss("cross_entropy", torch.ones(3)),
        train_sampler=EpochSampler(data.labels, "uniform", 0),
    )


def test_the_trainer_gives_the_optimizer_the_layers_rates_and_spares_norms_and_biases(tmp_path: Path) -> None:
    model = ViTForLesionClassification(ViTLesionConfig(num_labels=3, image_size=32, **TINY))
    data = Noise(32, 6)
    plain = a_trainer(model, tmp_path, data, learning_rate=0.1).create_optimizer()
    assert [(group["lr"], group["weight_decay"]) for group in plain.param_groups] == [(0.1, 0.01), (0.1, 0.0)]
    layered = a_trainer(model, tmp_path, data, learning_rate=0.1, layer_decay=0.5).create_optimizer()
    assert type(layered) is type(plain)
    spared = {id(value) for value in plain.param_groups[1]["params"]}
    norms = [value for module in model.modules() if isinstance(module, nn.LayerNorm) for value in module.parameters()]
    biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
    assert {id(value) for value in (*norms, *biases)} <= spared
    seen = [id(value) for group in layered.param_groups for value in group["params"]]
    assert sorted(seen) == sorted(id(value) for value in model.parameters())
    for group in layered.param_groups:
        assert all((id(value) in spared) == (group["weight_decay"] == 0.0) for value in group["params"])
    assert [group["lr"] for group in layered.param_groups[::2]] == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_layers_move_by_their_own_rates(tmp_path: Path) -> None:
    """Adam's first step moves each weight by its rate, whatever the gradient's size."""
    torch.manual_seed(0)
    model = ViTForLesionClassification(ViTLesionConfig(num_labels=3, image_size=32, **TINY))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    options = {"learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    trainer = a_trainer(
        model, tmp_path, Noise(32, 4), max_steps=1, per_device_train_batch_size=4, layer_decay=0.5, **options
    )
    trainer.train()
    for name, rate in {
        "head.weight": 1e-3,
        "backbone.layers.1.mlp.fc2.weight": 5e-4,
        "backbone.layers.0.mlp.fc2.weight": 2.5e-4,
        "backbone.embeddings.patch_embeddings.projection.weight": 1.25e-4,
    }.items():
        moved = (model.get_parameter(name) - before[name]).abs().median().item()
        assert moved == pytest.approx(rate, rel=0.02), name


# -------------------------------------------------------------------- options


def test_checkpointing_is_refused_where_no_layer_knows_it(tmp_path: Path) -> None:
    model = MobileNetForLesionClassification(MobileNetLesionConfig(num_labels=3, backbone="mobilenetv2_035"))
    with pytest.raises(UserError, match="gradient_checkpointing true: MobileNetForLesionClassification has no layers"):
        a_trainer(model, tmp_path, Noise(32, 4), gradient_checkpointing=True)


def test_averaged_weights_are_refused_under_fsdp() -> None:
    stub = SimpleNamespace(
        args=SimpleNamespace(gradient_checkpointing=False), is_fsdp_enabled=True, model=nn.Linear(2, 2)
    )
    with pytest.raises(UserError, match=r"ema_decay 0\.99: sharded weights \(FSDP\) cannot be averaged"):
        LesionTrainer._refuse_what_cannot_be(stub, 0.99)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--backbone_weights", "timm"], '"timm" has no ViT'),
        (["--backbone_weights", "nobody/nothing"], "nobody/nothing: no ViT checkpoint can be read there"),
        (["--backbone", "resnet50"], "backbone is 'resnet50'"),
        (["--image_size", "36"], "image_size 36 is no multiple of the ViT's patch_size 8"),
        (["--model_config", '{"drop_path_rate": 2}'], "drop_path_rate is 2"),
        (["--model_config", '{"layers": 2}'], "unknown field 'layers'"),
    ],
)
def test_bad_options_are_named_and_leave_nothing(
    lesions12: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    out = tmp_path / "out"
    small = ("--backbone_weights", "none", "--model_config", json.dumps(TINY), *SMALL)
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        run(
            [*small, "--dataset", str(lesions12), "--output_dir", str(out), *options],
            "vit",
            classifier(ViTForLesionClassification),
        )
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- the run


class Best(TrainerCallback):
    """Remembers the weights of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, torch.Tensor]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.epochs.append({name: value.detach().clone() for name, value in model.state_dict().items()})


@pytest.fixture(scope="module")
def finished(lesions12: Path, melanoma_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Best]:
    """A run from the 3-class checkpoint with everything optional switched on, and no `clear` skin in the test split."""
    out, best = tmp_path_factory.mktemp("run") / "model", Best()
    splits = load_splits(str(lesions12), "grouped")
    clear = splits.labels.index("clear")
    test = splits.splits["test"].filter(lambda row: row["label"] != clear)
    assert 0 < len(test) < len(splits.splits["test"])
    splits = replace(splits, splits={**splits.splits, "test": test})
    words = ["--backbone_weights", str(melanoma_vit), "--layer_decay", "0.7", "--gradient_checkpointing", "true"]
    words += ["--model_config", '{"drop_path_rate": 0.1}', "--output_dir", str(out)]
    options, training, resolved = parse([*SMALL, *words], "vit", LesionArguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "trainers.training.train.LesionTrainer",
            lambda **given: LesionTrainer(**{**given, "callbacks": [*given["callbacks"], best]}),
        )
        assert train(options, training, resolved, splits, classifier(ViTForLesionClassification)) == out
    return out, best


def test_the_finished_folder_says_where_it_started(finished: tuple[Path, Best]) -> None:
    out, _ = finished
    assert verify_folder(out) == []
    report = json.loads((out / "report.json").read_text())
    message = report["model"]["initialised_from"]
    assert re.match(
        r"vit-melanoma \(sha256 [0-9a-f]{64}\), its 3-class head replaced by 12 classes, position ", message
    )
    assert message.endswith("position embeddings interpolated from 48 to 32 px")
    assert report["model"]["backbone"] == "vit_32x2_patch8_32"
    assert any("dosovitskiy2021vit" in entry for entry in report["model"]["citation"])
    assert message in folder_card(out)
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"]) == ([0.5] * 3, [0.25] * 3)
    assert processor["size"] == {"height": 32, "width": 32}


def test_the_kept_weights_are_those_of_the_best_epoch(finished: tuple[Path, Best]) -> None:
    """transformers writes a ViT under other names than it reads when it takes back the best epoch; ours must not."""
    out, best = finished
    stored = load_file(out / "model.safetensors")
    kept = json.loads((out / "report.json").read_text())["training"]["kept_epoch"]
    assert len(best.epochs) == 2
    for name, value in best.epochs[kept - 1].items():
        assert torch.equal(stored[name], value), name
    assert not torch.equal(best.epochs[0]["head.weight"], best.epochs[1]["head.weight"])


def test_a_checkpoint_is_read_back_whole(tmp_path: Path) -> None:
    model = ViTForLesionClassification(ViTLesionConfig(num_labels=3, image_size=32, **TINY))
    trainer = a_trainer(model, tmp_path, Noise(32, 4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.save_model(str(tmp_path / "checkpoint"))
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(7.0)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_validation_and_test_have_tables_and_matrices_and_an_absent_class_is_not_defined(
    finished: tuple[Path, Best],
) -> None:
    out, _ = finished
    report = json.loads((out / "report.json").read_text())
    for split, suffix in (("test", ""), ("validation", "_validation")):
        with (out / f"per_class_metrics{suffix}.csv").open() as file:
            rows = {row["class"]: row for row in csv.DictReader(file)}
        assert len(rows) == 12
        support = {row["name"]: row["support"] for row in report["evaluation"][split]["per_class"]}
        assert {name: int(row["support"]) for name, row in rows.items()} == support
        text = (out / f"classification_report{suffix}.txt").read_text()
        assert text.startswith(f"ViT-L/32-384, 12 classes of skin lesions, {split} split\n")
        with Image.open(out / "figures" / f"confusion_matrix_{split}.png") as image:
            assert image.format == "PNG"
        assert f"figures/confusion_matrix_{split}.png" in [figure["file"] for figure in report["figures"]]
        if split == "test":
            assert (rows["clear"]["support"], rows["clear"]["recall"], rows["clear"]["f1"]) == ("0", "", "")
            assert "recall: not defined: support 0" in rows["clear"]["note"]
            line = next(line for line in text.splitlines() if line.strip().startswith("clear"))
            assert line.split()[2:] == ["n/a", "n/a", "0"]
    card = folder_card(out)
    row = next(line for line in card.splitlines() if line.startswith("| `clear` | 0 | 0 |"))
    assert row.count("not defined: support 0") >= 2


# ------------------------------------------------------------------ full size


@pytest.mark.slow
def test_vit_large_makes_one_step_and_survives_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published architecture whole: 305 million parameters, 384 px, AdamW; about 6 GB of memory."""
    torch.manual_seed(0)
    # torch's own first values, which transformers replaces by the ViT's: a third of the test's time.
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, *_, **__: tensor)
    model = ViTForLesionClassification(ViTLesionConfig(num_labels=12))
    assert model.num_parameters() == 305_619_980
    watched = "backbone.layers.23.mlp.fc2.weight"
    before = model.get_parameter(watched).detach().clone()
    data = Noise(384, 1)
    options = {"max_steps": 1, "per_device_train_batch_size": 1, "learning_rate": 2e-5, "warmup_steps": 0}
    trainer = a_trainer(model, tmp_path / "run", data, lr_scheduler_type="constant", **options)
    trainer.loss = make_loss("cross_entropy", torch.ones(12))
    result = trainer.train()
    assert result.global_step == 1
    assert 1.5 < result.training_loss < 4.0  # ln 12 = 2.48 for a head that knows nothing
    moved = (model.get_parameter(watched) - before).abs().median().item()
    assert moved == pytest.approx(2e-5, rel=0.05)  # Adam's first step
    del trainer, before
    model.zero_grad(set_to_none=True)
    gc.collect()
    pixels = data.pixels[:1]
    with torch.no_grad():
        expected = model.eval()(pixels).logits
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size == pytest.approx(4 * 305_619_980, rel=0.001)
    del model
    gc.collect()
    again = ViTForLesionClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, expected)
    shutil.rmtree(tmp_path / "model")  # 1.2 GB that pytest would keep
