"""The command from end to end on drawn images, and one line for each thing a user can fix."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datasets_scripts.command import UserError
from trainers.map_latent import main


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["trainers/map_latent.py", *map(str, words)])
    main()


def test_from_a_dataset_to_numbers_charts_and_a_page(
    classifier: Path,
    autoencoder: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "map"
    words = ["--dataset", phantom_dataset, "--model", classifier, "--autoencoder", autoencoder, "--out", out]
    call(monkeypatch, *words, "--perplexity", 5, "--k", 3, "--splits", "train", "test", "--bootstrap_replicates", 50)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "cluster_quality.csv",
        "cluster_quality.md",
        "figures/cluster_quality.png",
        "figures/map_test.png",
        "figures/map_train.png",
        "map.html",
        "points.parquet",
        "report.json",
    ]
    report = json.loads((out / "report.json").read_text())
    assert list(report["splits"]) == ["train", "test"]
    assert list(report["splits"]["train"]["representations"]) == ["pixels", "codes", "features"]
    dimensions = [of["dimensions"] for of in report["splits"]["test"]["representations"].values()]
    assert dimensions == [3 * 32 * 32, 6, 1280]
    assert set(report["splits"]["test"]["differences"]) == {
        "autoencoder codes minus plain pixels",
        "classifier features minus plain pixels",
        "classifier features minus autoencoder codes",
    }
    assert report["splits"]["train"]["n"] == report["splits"]["train"]["n_of"]
    assert report["dataset"]["license"] == ["CC0-1.0"]
    assert "not known" in report["notes"][0]  # the tiny model's report says nothing of its training
    assert str(tmp_path) not in json.dumps(report)
    with (out / "cluster_quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = (
        r for r in rows if (r["split"], r["representation"], r["measure"]) == ("test", "codes", "knn_balanced_accuracy")
    )
    numbers = report["splits"]["test"]["representations"]["codes"]["knn"]
    assert float(row["value"]) == numbers["balanced_accuracy"]["value"]
    assert float(row["chance"]) == numbers["chance"]["value"]
    assert f"{numbers['balanced_accuracy']['value']:.3f}" in (out / "cluster_quality.md").read_text()
    points = pq.read_table(out / "points.parquet").to_pydict()
    assert len(points["x"]) == 3 * (report["splits"]["train"]["n"] + report["splits"]["test"]["n"])
    output = capsys.readouterr().out
    assert f"balanced accuracy {numbers['balanced_accuracy']['value']:.3f}" in output
    assert not (tmp_path / "map.partial").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splits", "tset"], r"no split 'tset': choose among train, validation"),
        (["--perplexity", "24", "--splits", "test"], r"--perplexity 24 .* 24 images of the split 'test'"),
        (["--k", "30", "--splits", "test"], r"30 neighbours of other lesions .* of the split 'test'"),
        (["--pixels", "3000", "--splits", "test"], r"--pixels 3000 .* of 24 images .*: choose at most 1365"),
        (["--config_name", "nope"], r"has no config 'nope'"),
        (["--autoencoder", "nowhere"], r"--autoencoder 'nowhere' is neither"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str],
    message: str,
    classifier: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "map"
    with pytest.raises(UserError, match=message) as caught:
        call(monkeypatch, "--dataset", phantom_dataset, "--model", classifier, "--out", out, "--perplexity", 5, *words)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UserError, match="is not empty: choose another --out"):
        call(monkeypatch, "--dataset", "org/nowhere", "--model", "org/nowhere", "--out", tmp_path)


def test_a_dataset_of_other_labels(
    classifier: Path, two_class_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"the model has the labels akiec, .* the dataset benign, malignant"):
        call(
            monkeypatch,
            "--dataset",
            two_class_dataset,
            "--model",
            classifier,
            "--out",
            tmp_path / "o",
            "--perplexity",
            3,
        )


def test_a_split_of_one_class(
    classifier: Path, one_class_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dataset", one_class_dataset, "--model", classifier, "--splits", "train"]
    with pytest.raises(UserError, match=r"the split 'train' of .* holds 1 class \(nv\): clusters need two or more"):
        call(monkeypatch, *words, "--out", tmp_path / "o", "--perplexity", 2)


def test_without_thumbnails_the_page_shows_nobody(
    classifier: Path, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dataset", phantom_dataset, "--model", classifier, "--thumbnail", 0, "--splits", "validation"]
    call(monkeypatch, *words, "--out", tmp_path / "o", "--perplexity", 3, "--k", 1, "--bootstrap_replicates", 20)
    page = (tmp_path / "o" / "map.html").read_text()
    assert "Points only. Research software, not a medical device." in page
    assert '"thumb":[]' in page
