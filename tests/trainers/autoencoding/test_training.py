"""Training an autoencoder for real, on a few drawn images: the finished folder, a resumed run, bad input."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import processes
import pytest
import torch
from card_text import folder_card
from PIL import Image
from safetensors.torch import load_file
from shared_fixtures import stopped_at_checkpoint
from transformers import AutoImageProcessor, AutoModel

from datasets_scripts.command import UserError
from hub_models import AutoencoderLesionModel
from model_cards.verify import verify_folder
from trainers.autoencoding.evaluate import evaluate
from trainers.autoencoding.linear_reference import LinearCode, fit_linear_code, linear_scores
from trainers.autoencoding.options import AutoencoderArguments
from trainers.autoencoding.reconstructing import range_of, read_reconstructions, reconstruct_split
from trainers.autoencoding.train import AUTOENCODER, augment
from trainers.autoencoding.trainer import AutoencoderTrainer, with_noise
from trainers.model_folder.data import load_splits
from trainers.model_folder.rebuild import rebuild
from trainers.training.arguments import parse
from trainers.training.train import fields_of, run

Command = Callable[..., list[str]]
Env = dict[str, str]
# As the fixture ``trained_autoencoder`` is.
TRAINED_WITH = ("--noise_std", "0.1", "--ssim_weight", "0.01", "--weights_dtype", "float16")
RECIPES = ("autoencoder", "autoencoder_published", "autoencoder_cpu", "autoencoder_published_cpu", "autoencoder_demo")


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)


def test_the_finished_folder_is_whole_and_verified(trained_autoencoder: Path) -> None:
    assert verify_folder(trained_autoencoder) == []
    names = {p.relative_to(trained_autoencoder).as_posix() for p in trained_autoencoder.rglob("*") if p.is_file()}
    expected = {
        "README.md",
        "REPORT.md",
        "manifest.json",
        "report.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "reconstructions_validation.parquet",
        "reconstructions_test.parquet",
        "figures/reconstructions_test.png",
        "figures/checkerboard_test.png",
        "figures/psnr_by_class_test.png",
        "figures/training_curves.png",
        "configuration_autoencoder.py",
        "modeling_autoencoder.py",
        "image_processing_pixels.py",
    }
    assert expected <= names
    assert not list(trained_autoencoder.parent.glob("*.partial"))


def test_a_number_changed_in_the_card_is_found(trained_autoencoder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained_autoencoder, copy)
    report = json.loads((copy / "report.json").read_text())
    stated = f"{report['evaluation']['test']['psnr']['value']:.2f} ("
    card = (copy / "README.md").read_text()
    assert stated in card
    (copy / "README.md").write_text(card.replace(stated, "99.99 ("))
    problems = verify_folder(copy)
    assert any("README.md was changed" in problem for problem in problems)
    assert any("the card says 99.99" in problem for problem in problems)


def test_the_report_says_what_was_run(trained_autoencoder: Path, phantom_dataset: Path) -> None:
    report = json.loads((trained_autoencoder / "report.json").read_text())
    model = report["model"]
    assert (model["code_size"], model["image_size"], model["values_per_code"]) == (8, 32, 384.0)
    assert model["bits_per_image"] == {"float32": 256, "8bit": 64}
    assert model["num_parameters"] == AutoModel.from_pretrained(trained_autoencoder).num_parameters()
    assert model["loss"] == {"loss": "mse", "ssim_weight": 0.01, "perceptual_weight": 0.0, "noise_std": 0.1}
    assert report["leak_audit"]["test"]["leaking"] == 0
    history = report["training"]["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    assert report["training"]["best_metric"] == max(row["eval_psnr"] for row in history)
    assert history[1]["eval_loss"] < history[0]["eval_loss"]
    assert [entry["split"] for entry in report["test_reads"]] == ["test"]
    text = (trained_autoencoder / "report.json").read_text() + folder_card(trained_autoencoder)
    assert str(phantom_dataset.parent) not in text


def test_every_number_follows_from_the_stored_reconstructions(trained_autoencoder: Path) -> None:
    report = json.loads((trained_autoencoder / "report.json").read_text())
    found = read_reconstructions(trained_autoencoder / "reconstructions_test.parquet")
    again = evaluate(found, replicates=50, seed=report["provenance"]["seed"])
    assert again == report["evaluation"]["test"]
    assert found.periods == [2, 4]
    assert report["evaluation"]["test"]["denoising"]["noisy"]["value"] == pytest.approx(20, abs=1)  # deviation 0.1
    # Eight numbers of 8 bits each are nearly as good as eight of 32; of a model this raw, sometimes better.
    lost = found.scores["psnr"] - found.scores["psnr_8bit"]
    assert np.any(lost != 0)
    assert abs(np.mean(lost)) < 0.5


def test_it_is_no_classifier_to_rebuild(trained_autoencoder: Path) -> None:
    before = (trained_autoencoder / "report.json").read_bytes()
    with pytest.raises(UserError, match="holds an autoencoder, not one classifier"):
        rebuild(trained_autoencoder, 50)
    assert (trained_autoencoder / "report.json").read_bytes() == before


def test_reconstructions_are_those_of_the_stored_weights(trained_autoencoder: Path, phantom_dataset: Path) -> None:
    assert load_file(trained_autoencoder / "model.safetensors")["encoder.0.0.weight"].dtype == torch.float16
    model, processor = loaded(trained_autoencoder)
    splits = load_splits(str(phantom_dataset), "grouped")
    validation = read_reconstructions(trained_autoencoder / "reconstructions_validation.parquet")
    again = reconstruct_split(
        model, processor, splits, "test", code_range=range_of(validation.codes), noise_std=0.1, seed=42, progress=False
    )
    stored = read_reconstructions(trained_autoencoder / "reconstructions_test.parquet")
    assert stored.image_id.tolist() == again.image_id.tolist()
    np.testing.assert_allclose(stored.codes, again.codes, atol=1e-4)
    for name, values in again.scores.items():
        np.testing.assert_allclose(stored.scores[name], values, atol=1e-2, err_msg=name)
    # PSNR by hand, from the image as it lies in the dataset.
    rows = splits.splits["test"].cast_column("image", datasets.Image(decode=True))
    image = np.asarray(rows[0]["image"].convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)) / 255
    pixels = processor(rows[0]["image"], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        drawn = model.to_images(model.decode(model.encode(pixels)))[0].permute(1, 2, 0).numpy()
    assert stored.scores["psnr"][0] == pytest.approx(-10 * np.log10(np.mean((drawn - image) ** 2)), abs=0.01)


def test_a_resumed_run_gets_to_the_same_weights(
    train_autoencoder: Command, tmp_path: Path, trained_autoencoder: Path
) -> None:
    """Stopped after its first epoch, and gone on with: those of ``trained_autoencoder``."""
    again = tmp_path / "again"
    command = train_autoencoder(again, *TRAINED_WITH, "--linear_reference", "false")
    with pytest.raises(KeyboardInterrupt):
        stopped_at_checkpoint(AutoencoderTrainer, lambda: run(command[2:], "autoencoder", AUTOENCODER))
    assert not again.exists()
    with pytest.raises(UserError, match="--resume_from_checkpoint true"):
        run(command[2:], "autoencoder", AUTOENCODER)
    run([*command[2:], "--resume_from_checkpoint", "true"], "autoencoder", AUTOENCODER)
    expected, resumed = (load_file(folder / "model.safetensors") for folder in (trained_autoencoder, again))
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=2e-3, atol=1e-5, msg=name)  # both stored as fp16


def test_training_by_accelerate_without_a_dataset_says_which_command_builds_it(
    repo_root: Path, quiet_env: Env, tmp_path: Path
) -> None:
    script = str(repo_root / "trainers" / "train_autoencoder.py")
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", script]
    done = processes.run([sys.executable, *launch], env=quiet_env, cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "error: the dataset folder 'data/ham10000' does not exist: build it with" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model_config", '{"code_size": 0}'], "code_size is 0; give a whole number of codes"),
        (["--image_size", "36"], "image_size is 36; 3 stages halve the image as often"),
        (["--model_config", '{"codes": 8}'], "unknown field 'codes'"),
        (["--model_config", "[8]"], "no JSON object"),
        (["--model_config", "{8"], "is not JSON"),
        (["--loss", "cross_entropy"], "loss 'cross_entropy' is unknown: choose one of mse, l1"),
        (["--augmentation", "mixup"], "augmentation 'mixup' is unknown"),
        (["--noise_std", "2"], "noise_std 2.0"),
        (["--ssim_weight", "-1"], "ssim_weight -1.0"),
        (["--backbone", "resnet50"], "backbone 'resnet50': an autoencoder has no such option"),
        (["--layer_decay", "0.5"], "layer_decay 0.5"),
        (["--perceptual_weight", "1", "--perceptual_weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--config_name", "fold9"], "'fold9'"),
    ],
)
def test_bad_options_are_named_and_leave_nothing(
    train_autoencoder: Command, tmp_path: Path, options: list[str], named: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=re.escape(named)):
        run(train_autoencoder(out, *options)[2:], "autoencoder", AUTOENCODER)
    assert not out.exists()
    assert not list(tmp_path.rglob("*.safetensors"))


def without_images(folder: Path, image: Any) -> Path:
    """A dataset in the suite's form with two rows per split, whose ``image`` is what was given."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["mel", "nv"])})
    if image == "no column":
        features = datasets.Features({"label": features["label"]})
    for split in ("train", "validation", "test"):
        rows = {"label": [0, 1]} | ({} if image == "no column" else {"image": [image, image]})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / f"{split}.parquet")
    lines = [f"  - split: {split}\n    path: data/{split}.parquet" for split in ("train", "validation", "test")]
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: grouped\n  data_files:\n" + "\n".join(lines) + "\n---\n"
    )
    return folder


@pytest.mark.parametrize(
    ("image", "named"),
    [("no column", "has no column 'image'"), (None, "the train split of .* has 2 of 2 rows without an image")],
    ids=["no column", "null"],
)
def test_a_dataset_without_images_is_one_line(tmp_path: Path, image: Any, named: str) -> None:
    # Of another name each: the cache of datasets identifies local folders by their names.
    folder = without_images(tmp_path / ("null" if image is None else "column"), image)
    with pytest.raises(UserError, match=named):
        run(
            ["--recipe", "autoencoder_demo", "--dataset", str(folder), "--output_dir", str(tmp_path / "out")],
            "x",
            AUTOENCODER,
        )
    assert not (tmp_path / "out").exists()


def test_weights_that_diverge_are_one_line(train_autoencoder: Command, tmp_path: Path) -> None:
    command = train_autoencoder(tmp_path / "out", "--learning_rate", "1e30", "--max_grad_norm", "0")
    with pytest.raises(
        UserError, match=r"training diverged at step \d+ of \d+: .*NaN or infinite.* lower --learning_rate"
    ):
        run(command[2:], "autoencoder", AUTOENCODER)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_model(name: str) -> None:
    options, training, _ = parse(["--precision", "fp32"], name, AutoencoderArguments)
    known = AutoencoderLesionModel.config_class.__annotations__
    shape = fields_of(options.model_config, known, "")
    config = AutoencoderLesionModel.config_class(**{"image_size": options.image_size, **shape})
    assert training.metric_for_best_model == "psnr"
    assert training.load_best_model_at_end
    # The published share of codes; the demo's is the same by choice.
    assert 3 * config.image_size**2 / config.code_size == 384


def test_the_published_recipes_differ_in_their_shape_alone() -> None:
    for ours, theirs in (("autoencoder", "autoencoder_published"), ("autoencoder_cpu", "autoencoder_published_cpu")):
        settings = [parse(["--precision", "fp32"], name, AutoencoderArguments)[2] for name in (ours, theirs)]
        apart = {key for key in {*settings[0], *settings[1]} if settings[0].get(key) != settings[1].get(key)}
        assert apart == {"recipe_name", "name", "title", "output_dir", "model_config"}


def test_turns_keep_every_pixel() -> None:
    """Flips and quarter turns are a rearrangement: the same colours, and four images at most twice."""
    values = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    turn = augment("turns", 24)
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        turned = np.asarray(turn(Image.fromarray(values)))
        assert np.array_equal(np.sort(turned.reshape(-1, 3), axis=0), np.sort(values.reshape(-1, 3), axis=0))
        seen.add(turned.tobytes())
    assert len(seen) == 8


def test_noise_has_the_given_deviation() -> None:
    pixels = torch.zeros(8, 3, 64, 64)
    torch.manual_seed(0)
    noise = with_noise(pixels, 0.1, [0.5, 0.25, 1.0])
    assert noise.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.2, 0.4, 0.1], rel=0.02)
    assert with_noise(pixels, 0.0, [0.5, 0.5, 0.5]) is pixels


def test_the_linear_code_is_the_principal_components(trained_autoencoder: Path, phantom_dataset: Path) -> None:
    model, processor = loaded(trained_autoencoder)
    splits = load_splits(str(phantom_dataset), "grouped")
    code = fit_linear_code(model, processor, splits, progress=False)
    assert isinstance(code, LinearCode)
    assert code.n == len(splits.splits["train"])
    assert code.components.shape == (8, 3 * 32 * 32)
    np.testing.assert_allclose(code.components @ code.components.T, np.eye(8), atol=1e-4)
    # No other eight directions keep more of the training images: compare with NumPy's own decomposition.
    images = np.stack(
        [
            np.asarray(row["image"].convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
            for row in splits.splits["train"].cast_column("image", datasets.Image(decode=True))
        ]
    ).reshape(code.n, -1)
    singular = np.linalg.svd(images - images.mean(axis=0), compute_uv=False)
    kept = ((images - code.mean) @ code.components.T) ** 2
    assert kept.sum() == pytest.approx((singular[:8] ** 2).sum(), rel=1e-3)
    scores = linear_scores(code, model, processor, splits, "test", progress=False)
    stored = read_reconstructions(trained_autoencoder / "reconstructions_test.parquet")
    np.testing.assert_allclose(scores["psnr_linear"], stored.scores["psnr_linear"], atol=0.05)
    # An image that lies within the code's reach comes back whole.
    inside = (code.mean + 0.01 * code.components[0]).reshape(1, 3, 32, 32)
    np.testing.assert_allclose(code.reconstruct(inside), inside, atol=1e-5)


def test_too_few_images_have_no_linear_code(trained_autoencoder: Path, phantom_dataset: Path) -> None:
    model, processor = loaded(trained_autoencoder)
    splits = load_splits(str(phantom_dataset), "grouped")
    few = {**splits.splits, "train": splits.splits["train"].select(range(8))}
    assert fit_linear_code(model, processor, type(splits)(few, splits.labels, "few", "grouped"), progress=False) is None
