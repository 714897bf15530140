from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets_scripts.command import UserError
from trainers.autoencoding.options import AutoencoderArguments
from trainers.training.arguments import EnsembleArguments, parse, recipe_names, resolve_precision
from trainers.training.image_arguments import ImageArguments

BASE = ["--output_dir", "out", "--precision", "fp32"]


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_defaults() -> None:
    lesion, training, resolved = parse([*BASE, "--learning_rate", "0.5"], "mobilenet")
    assert (training.learning_rate, lesion.sampling, lesion.focal_gamma) == (0.5, "oversample", 2.0)
    assert resolved["learning_rate"] == 0.5
    assert resolved["recipe_name"] == "mobilenet"
    assert "focal_gamma" not in resolved


def test_the_published_recipe_carries_the_published_settings() -> None:
    lesion, training, _ = parse(BASE, "mobilenet")
    published = (lesion.backbone, lesion.image_size, lesion.sampling, lesion.loss)
    assert published == ("mobilenetv2_100", 224, "oversample", "cross_entropy")
    assert (training.per_device_train_batch_size, training.num_train_epochs, training.learning_rate) == (64, 20, 8e-4)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses(name: str) -> None:
    special = {"autoencoder": AutoencoderArguments, "dinov2": ImageArguments}
    options_class = next((kind for start, kind in special.items() if name.startswith(start)), EnsembleArguments)
    lesion, training, resolved = parse(["--precision", "fp32"], name, options_class)
    assert resolved["recipe_name"] == name
    assert lesion.dataset
    # The best epoch's weights are kept, unless the recipe itself says that the last ones are.
    assert training.load_best_model_at_end or "load_best_model_at_end" in resolved
    assert training.push_to_hub is False


def test_an_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("learning_rate: 8e-4\nbackbone: mobilenetv2_100\n")
    _, training, _ = parse([*BASE, "--recipe", str(recipe)], "mobilenet")
    assert training.learning_rate == 8e-4


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("learning_rates: 1\n")
    with pytest.raises(UserError, match=r"unknown key 'learning_rates': did you mean learning_rate"):
        parse([*BASE, "--recipe", str(recipe)], "mobilenet")


@pytest.mark.parametrize(("text", "named"), [("a: [1", "not YAML"), ("- 1\n", "holds a list")])
def test_a_broken_recipe_is_refused(tmp_path: Path, text: str, named: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text)
    with pytest.raises(UserError, match=named):
        parse([*BASE, "--recipe", str(recipe)], "mobilenet")


def test_a_missing_recipe_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="mobilenet_cpu"):
        parse([*BASE, "--recipe", "nothing_like_it"], "mobilenet")


def test_an_unknown_option_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse([*BASE, "--learning_rat", "1", "--nonsense", "2"], "mobilenet")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_precision_auto_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert resolve_precision("auto") == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert resolve_precision("auto") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_precision("auto") == "fp16"
    assert resolve_precision("auto", use_cpu=True) == "fp32"
    assert resolve_precision("bf16") == "bf16"


def test_fp16_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'fp16' needs a CUDA device"):
        resolve_precision("fp16")
    with pytest.raises(UserError, match="'fp8' is unknown"):
        resolve_precision("fp8")


def test_help_names_every_option_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], "mobilenet")
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("--image_size", "pixels", "probability in [0, 1)", "95 % intervals", "--recipe", "--learning_rate"):
        assert words in shown


def test_the_command_that_builds_the_recipes_dataset_is_not_offered_for_another() -> None:
    lesion, _, resolved = parse(BASE, "mobilenet")
    assert "build_dermx" in lesion.dataset_command
    lesion, _, resolved = parse([*BASE, "--dataset", "org/name"], "mobilenet")
    assert (lesion.dataset, lesion.dataset_command, resolved["dataset_command"]) == ("org/name", "", "")
