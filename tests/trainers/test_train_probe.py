"""The linear probe and the zero-shot head: labels, penalty, cached features, prompts, and the finished folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from card_text import card_text, folder_card
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from datasets_scripts.command import UserError
from hub_models import ImageForLesionClassification, ImageLesionConfig, describe_backbone
from model_cards.verify import verify_folder
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import load_splits
from trainers.probing import compare
from trainers.probing import features as probing
from trainers.probing.fit import choose_labelled, fit_head
from trainers.probing.options import ProbeOptions
from trainers.probing.run import prepare, probe, set_head, training_section, zero_shot_head
from trainers.probing.zero_shot import projection_of, read_prompts, text_head
from trainers.training.image_arguments import ImageArguments

PROMPTS = "templates: ['a photo of {}', 'the {}']\nclasses:\n  nv: [mole, nevus]\n"


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of few words beside a checkpoint."""
    words = ["a", "photo", "of", "the", "mole", "nevus", "melanoma", "carcinoma", "acne"]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with image processor and tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints") / "clip"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision, text = {**shape, "image_size": 32, "patch_size": 8}, {**shape, "vocab_size": 40, "eos_token_id": 39}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size=size, crop_size=size, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


# --------------------------------------------------------------------- labels


def test_the_labelled_groups_follow_from_their_ids_alone() -> None:
    groups = [f"lesion{number // 2}" for number in range(400)]
    labels = np.zeros(400, dtype=int)
    labels[398:] = 1
    tenth, half = (choose_labelled(groups, labels, fraction) for fraction in (0.1, 0.5))
    assert choose_labelled(groups, labels, 1.0).all()
    # The first 52 bits of sha256 of their ids, as a share of 2^52: below a tenth, the same on every machine.
    assert [groups[row] for row in np.flatnonzero(tenth)][:6:2] == ["lesion39", "lesion68", "lesion70"]
    assert (half | ~tenth)[:398].all()
    assert (tenth[::2] == tenth[1::2]).all()
    assert 0.06 < tenth.mean() < 0.14
    assert tenth[398:].all()
    order = np.random.default_rng(0).permutation(400)
    shuffled = choose_labelled([groups[row] for row in order], labels[order], 0.1)
    assert (shuffled == tenth[order]).all()


# ------------------------------------------------------------------------ fit


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_the_logistic_regression_of_the_features_as_they_are(classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 300)
    features = rng.normal(size=(300, 5)) * [1, 10, 0.1, 1, 1] + 3
    features[:, 1] += 10 * labels
    features[:, 4] = 7.0
    head = fit_head(features, labels, np.arange(300), classes, folds=3, penalties=(1.0, 0.01))
    assert (head.about["l2"], head.about["at_the_edge"]) == (0.01, True)
    assert head.about["cv_log_loss"]["0.01"] < head.about["cv_log_loss"]["1"]
    scaled = StandardScaler().fit_transform(features)
    expected = LogisticRegression(C=1 / (0.01 * 300), tol=1e-6).fit(scaled, labels).predict_proba(scaled)
    logits = torch.from_numpy(features @ head.weight.T + head.bias)
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected, atol=5e-3)
    assert (head.weight[:, 4] == 0).all()


def test_noise_wants_the_strongest_penalty_and_groups_are_not_split() -> None:
    """Labels follow the group alone: within a group they could be learned by heart, between groups they cannot."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    features, labels = rng.normal(size=(40, 30))[groups], rng.integers(0, 2, 40)[groups]
    head = fit_head(features, labels, groups, 2, folds=4, penalties=(10.0, 0.001))
    assert head.about["l2"] == 10.0
    alone = fit_head(features, labels, np.arange(200), 2, folds=4, penalties=(10.0, 0.001))
    assert alone.about["l2"] == 0.001


def test_a_class_without_labels_is_never_the_answer() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 2], 20)
    features = rng.normal(size=(40, 3)) + labels[:, None]
    head = fit_head(features, labels, np.arange(40), 3, folds=2)
    assert set((features @ head.weight.T + head.bias).argmax(1)) == {0, 2}
    with pytest.raises(UserError, match="of 1 class"):
        fit_head(features, np.zeros(40, dtype=int), np.arange(40), 3)
    with pytest.raises(UserError, match="of one group"):
        fit_head(features, labels, np.zeros(40), 3)


# ------------------------------------------------------------- features, folder


def arguments(clip: Path, dataset: Path, **more: Any) -> ImageArguments:
    values = {"backbone": f"transformers/{clip}", "dataset": str(dataset), "bootstrap_replicates": 20, "dropout": 0.0}
    return ImageArguments(**{**values, **more})


def test_features_are_computed_once_and_a_stopped_run_goes_on(
    clip: Path, phantom_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, model, processor = prepare(arguments(clip, phantom_dataset))
    rows = splits.splits["validation"]
    monkeypatch.setattr(probing, "CHUNK", 8)
    whole, seen, encode = probing._run, [], model.encode

    def stops(model: Any, images: Any, batch_size: int) -> np.ndarray:
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(len(images))
        return whole(model, images, batch_size)

    monkeypatch.setattr(probing, "_run", stops)
    with pytest.raises(KeyboardInterrupt):
        probing.features_of(model, processor, rows)
    monkeypatch.setattr(probing, "_run", lambda *words: seen.append(len(words[1])) or whole(*words))
    features = probing.features_of(model, processor, rows)
    assert sum(seen) == len(rows)
    assert seen[0] == 8
    again = probing.features_of(model, processor, rows)
    assert sum(seen) == len(rows)
    np.testing.assert_array_equal(features, again)
    pixels = processor([rows.cast_column("image", rows.features["image"].__class__())[3]["image"]], return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(features[3], encode(pixels["pixel_values"])[0].numpy(), atol=1e-5)
    before = probing.fingerprint(model, processor)
    processor.image_mean = [0.1, 0.1, 0.1]
    assert probing.fingerprint(model, processor) != before


@pytest.fixture(scope="module")
def probed(clip: Path, phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("probed") / "model"
    probe(arguments(clip, phantom_dataset), ProbeOptions(out, label_fraction=0.5, folds=2))
    return out


def test_a_probe_is_a_finished_folder(probed: Path, phantom_dataset: Path) -> None:
    assert verify_folder(probed) == []
    report = json.loads((probed / "report.json").read_text())
    section = report["training"]["probe"]
    ids = (probed / "labelled_images.txt").read_text().split()
    train = load_splits(str(phantom_dataset), "grouped").column("train", "image_id")
    assert set(ids) < set(train)
    assert ids == sorted(ids)
    assert section["images"] == len(ids) == report["provenance"]["dataset"]["splits"]["train"]["n"]
    assert sum(section["per_class"].values()) == len(ids)
    card = folder_card(probed)
    assert "| Head | multinomial logistic regression" in card
    assert f"| Labels used | {len(ids)} images of {section['groups']} lesions" in card
    predictions = read_predictions(probed / "predictions_test.parquet")
    head = AutoModelForImageClassification.from_pretrained(probed).head
    with torch.no_grad():
        expected = head(torch.from_numpy(predictions.features.astype(np.float32))).numpy()
    np.testing.assert_allclose(predictions.logits[:, 0], expected, atol=2e-3)  # features are stored as fp16


def test_the_zero_shot_head_gives_the_logits_of_clip(
    clip: Path, probed: Path, phantom_dataset: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(PROMPTS)
    options = arguments(clip, phantom_dataset)
    settings = ProbeOptions(tmp_path / "out", zero_shot=prompts)
    splits, model, _ = prepare(options, zero_shot=True)
    head = zero_shot_head(options, settings, model)
    set_head(model, head)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    original = CLIPModel.from_pretrained(clip).eval()
    texts = head.about["prompts"]
    assert texts["nv"] == ["a photo of mole", "a photo of nevus", "the mole", "the nevus"]
    assert texts["mel"] == [f"{start} {model.config.label_names['mel']}" for start in ("a photo of", "the")]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip)
    with torch.no_grad():
        image = original.visual_projection(original.vision_model(pixels).pooler_output)
        image = image / image.norm(dim=1, keepdim=True)
        rows = []
        for label in splits.labels:
            tokens = tokenizer(texts[label], padding=True, return_tensors="pt")
            found = original.text_projection(
                original.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
            )
            mean = (found / found.norm(dim=1, keepdim=True)).mean(0)
            rows.append(mean / mean.norm())
        expected = original.logit_scale.exp() * image @ torch.stack(rows).T
        torch.testing.assert_close(model(pixels).raw_logits, expected, rtol=0, atol=1e-4)
    # Its card: that of the probe with this training section.
    report = json.loads((probed / "report.json").read_text())
    report["training"] = training_section(head, settings, splits, 1.0)
    text = card_text(report, [path.relative_to(probed).as_posix() for path in probed.rglob("*")])
    assert "| Head | text prompts, without any label" in text
    assert "| `nv` | a photo of mole; a photo of nevus; the mole; the nevus |" in text


def test_the_table_of_several_probes(
    phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--backbones", "test_efficientnet=none", "--image_sizes", "32", "40", "--label_fractions", "0.5", "1"]
    words += ["--folds", "2", "--bootstrap_replicates", "20", "--out", str(tmp_path / "table.md")]
    monkeypatch.setattr("sys.argv", ["compare", "--dataset", str(phantom_dataset), *words])
    compare.main()
    header, line, *rows = (tmp_path / "table.md").read_text().splitlines()
    assert header.count("|") == line.count("|") == rows[0].count("|") == len(compare.HEADER) + 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    test = load_splits(str(phantom_dataset), "grouped")
    sources = sorted(set(test.column("test", "source")))
    assert [row[1] for row in cells] == [size for size in ("32", "40") for _ in range(2 * len(sources))]
    assert {row[2].partition(":")[0] for row in cells} == {"50 %", "100 %"}
    assert f"100 %: {len(test.splits['train'])} (" in rows[len(sources)]
    assert all(0 <= float(row[5].split()[0]) <= 1 for row in cells)
    shown = capsys.readouterr().out
    assert all(row in shown for row in rows)


def test_the_zero_shot_head_of_siglip_gives_its_probabilities(tmp_path: Path) -> None:
    """Its sigmoid adds one bias to every logit, which no softmax shows."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision, text = {**shape, "image_size": 32, "patch_size": 8}, {**shape, "vocab_size": 40}
    text["max_position_embeddings"] = 6
    original = SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval()
    original.save_pretrained(tmp_path)
    tokens = save_tokenizer(tmp_path)(["the mole", "a photo of acne"], padding="max_length", max_length=6)
    source = f"transformers/{tmp_path}"
    head = text_head(source, {"nv": ["the mole"], "acne": ["a photo of acne"]})
    fields = {**describe_backbone(source).fields, **projection_of(source)}
    model = ImageForLesionClassification.from_backbone(
        ImageLesionConfig(id2label={0: "nv", 1: "acne"}, image_size=32, **fields), tmp_path
    )
    set_head(model, head)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = original(input_ids=torch.tensor(tokens["input_ids"]), pixel_values=pixels).logits_per_image
        found = model.eval()(pixels).raw_logits
    torch.testing.assert_close(found.softmax(1), expected.softmax(1), rtol=0, atol=1e-5)
    assert expected.std(0).max() > 1e-3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("templates: [no gap]", "templates must be"),
        ("templates: []", "templates must be"),
        ("templates: ['{}']\nclasses: {melanom: x}", "'melanom' is no class"),
        ("prompts: 1", "and nothing else"),
        ("templates: [", "cannot be read"),
    ],
)
def test_prompts_that_cannot_be_are_one_line(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text(text)
    with pytest.raises(UserError, match=named):
        read_prompts(tmp_path / "prompts.yaml", ["mel", "nv"], {})


def test_options_that_cannot_be_are_one_line(phantom_dataset: Path, tmp_path: Path) -> None:
    for values, named in (
        ({"label_fraction": 0.0}, "label_fraction 0.0"),
        ({"folds": 1}, "folds 1"),
        ({"zero_shot": tmp_path / "none.yaml"}, "none.yaml' does not exist"),
    ):
        with pytest.raises(UserError, match=named):
            ProbeOptions(tmp_path / "out", **values)  # type: ignore[arg-type]
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    options = ImageArguments(backbone="mobilenetv2_035", backbone_weights="none", dataset=str(phantom_dataset))
    with pytest.raises(UserError, match="needs an encoder of images and texts"):
        probe(options, ProbeOptions(tmp_path / "out", zero_shot=tmp_path / "prompts.yaml"))
    assert not (tmp_path / "out").exists()
