"""The report's numbers follow from the stored scores; two models compare on the same images; files round-trip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.command import UserError
from trainers.autoencoding import compare as comparing
from trainers.autoencoding.compare import compare, markdown
from trainers.autoencoding.evaluate import evaluate
from trainers.autoencoding.figures import quantile_rows
from trainers.autoencoding.reconstructing import Reconstructions, read_reconstructions, write_reconstructions


def invented(n: int = 40, seed: int = 0, code_size: int = 4) -> Reconstructions:
    """Two images per lesion, three classes of which the last has no image."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"image{row:03d}" for row in range(n)], dtype=object)
    groups = np.array([f"lesion{row // 2:03d}" for row in range(n)], dtype=object)
    scores = {
        "psnr": rng.normal(25, 3, n),
        "ssim": rng.uniform(0.4, 0.9, n),
        "psnr_8bit": rng.normal(24, 3, n),
        "grid_2_db": rng.normal(6, 1, n),
        "grid_2_db_original": rng.normal(-1, 1, n),
        "grid_2_rms": rng.uniform(1, 2, n),
        "grid_2_rms_original": rng.uniform(0, 0.2, n),
    }
    label = (np.arange(n) // 2) % 2
    codes = rng.normal(size=(n, code_size)).astype(np.float32)
    return Reconstructions(ids, groups, groups, label, codes, scores, ["mel", "nv", "df"], "test", "grouped", "drawn")


def test_means_and_differences_by_hand() -> None:
    found = invented()
    found.scores["psnr_linear"], found.scores["ssim_linear"] = found.scores["psnr"] - 0.5, found.scores["ssim"] - 0.1
    found.scores["psnr_noisy"], found.scores["psnr_denoised"] = found.scores["psnr"] - 9, found.scores["psnr"] - 2
    section = evaluate(found, replicates=200)
    assert (section["n"], section["n_groups"]) == (40, 20)
    for name in ("psnr", "ssim", "psnr_8bit"):
        assert section[name]["value"] == pytest.approx(found.scores[name].mean(), abs=1e-6)
        assert section[name]["low"] < section[name]["value"] < section[name]["high"]
    mel, _, df = section["per_class"]
    assert mel["psnr"]["value"] == pytest.approx(found.scores["psnr"][found.label == 0].mean(), abs=1e-6)
    assert (mel["n"], mel["n_groups"], df["n"]) == (20, 10, 0)
    assert df["psnr"]["why"] == "not defined: no image of this class"
    # A gain that is the same on every image has no uncertainty, and says so.
    assert section["linear"]["psnr"]["gain"]["value"] == pytest.approx(0.5)
    assert section["linear"]["psnr"]["gain"]["why"] == "the same in every resample"
    assert section["denoising"]["gain"]["value"] == pytest.approx(7.0)
    (grid,) = section["checkerboard"]
    added = found.scores["grid_2_db"] - found.scores["grid_2_db_original"]
    assert grid["period"] == 2
    assert grid["db"]["added"]["value"] == pytest.approx(added.mean(), abs=1e-6)
    assert grid["db"]["original"]["value"] < 0 < grid["db"]["reconstruction"]["value"]


def test_intervals_are_by_lesion_and_not_by_image() -> None:
    """Two copies of every image say no more than one: the interval must not shrink."""
    once = invented()
    rows = np.repeat(np.arange(len(once)), 2)
    ids = np.array([f"{once.image_id[row]}-{copy}" for copy, row in enumerate(rows)], dtype=object)
    twice = replace(
        once,
        image_id=ids,
        lesion_id=once.lesion_id[rows],
        group_id=once.group_id[rows],
        label=once.label[rows],
        codes=once.codes[rows],
        scores={name: values[rows] for name, values in once.scores.items()},
    )
    widths = [section["psnr"]["high"] - section["psnr"]["low"] for section in map(evaluate, (once, twice))]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    # Of n independent groups whose means have deviation s, the interval is about 2 x 1.96 s / sqrt(n) wide.
    means = once.scores["psnr"].reshape(-1, 2).mean(axis=1)
    assert widths[0] == pytest.approx(2 * 1.96 * means.std() / np.sqrt(len(means)), rel=0.2)


def test_one_image_has_no_interval() -> None:
    found = invented(1)
    section = evaluate(found)
    assert section["psnr"]["low"] is None
    assert section["psnr"]["method"] == "no interval"


def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    found = invented()
    write_reconstructions(found, tmp_path / "reconstructions_test.parquet")
    again = read_reconstructions(tmp_path / "reconstructions_test.parquet")
    assert evaluate(again, replicates=50) == evaluate(found, replicates=50)
    np.testing.assert_array_equal(again.codes, found.codes)
    assert again.image_id.tolist() == found.image_id.tolist()
    assert (again.labels, again.split, again.config_name, again.dataset) == (
        found.labels,
        "test",
        "grouped",
        "drawn",
    )
    assert again.periods == [2]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reconstructions_test.parquet").write_text("nothing of the kind")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_reconstructions(tmp_path / "reconstructions_test.parquet")


def test_a_score_that_is_no_number_is_refused() -> None:
    found = invented()
    with pytest.raises(UserError, match="psnr of the test split holds NaN or infinity"):
        replace(found, scores={**found.scores, "psnr": np.full(len(found), np.nan)})


def test_two_models_are_compared_image_by_image() -> None:
    a = invented()
    shuffled = np.random.default_rng(3).permutation(len(a))
    gain = np.tile([0.5, 1.5], len(a) // 2)
    b = replace(
        a,
        image_id=a.image_id[shuffled],
        group_id=a.group_id[shuffled],
        codes=a.codes[shuffled],
        label=a.label[shuffled],
        scores={**{k: v[shuffled] for k, v in a.scores.items()}, "psnr": (a.scores["psnr"] + gain)[shuffled]},
    )
    result = compare(a, b, replicates=100)
    psnr = result["scores"]["psnr"]
    assert psnr["difference"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert psnr["b"]["value"] - psnr["a"]["value"] == pytest.approx(1.0, abs=2e-6)
    # Every lesion gains 1 dB on average: whichever are drawn, the difference is the same.
    assert psnr["difference"]["why"] == "the same in every resample"
    assert result["scores"]["ssim"]["difference"]["value"] == 0.0
    table = markdown(result, ("A", a), ("B", b))
    assert "| PSNR (dB) | " in table
    assert "| +1.000 (no interval) |" in table
    assert "grid every 2 pixels, over beside it (dB)" in table


def test_models_of_other_images_are_refused() -> None:
    a, b = invented(), invented(38)
    with pytest.raises(UserError, match="of 40 and 38 images, 38 of them shared"):
        compare(a, b)


def test_the_compare_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed, size in (("a", 0, 4), ("b", 1, 6)):
        (tmp_path / name).mkdir()
        write_reconstructions(invented(seed=seed, code_size=size), tmp_path / name / "reconstructions_test.parquet")
    out = tmp_path / "new" / "compared.json"  # a folder that it makes
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--replicates", "50", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["compare", *words])
    comparing.main()
    assert "note: their codes differ in size, 4 and 6 numbers" in capsys.readouterr().out
    stored = json.loads(out.read_text())
    expected = invented(seed=1).scores["psnr"].mean() - invented().scores["psnr"].mean()
    assert stored["scores"]["psnr"]["difference"]["value"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="exists already"):
        comparing.main()
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path), str(tmp_path / "b")])
    with pytest.raises(UserError, match=r"holds no reconstructions_test\.parquet"):
        comparing.main()


def test_the_sheet_takes_quantiles_and_no_favourites() -> None:
    found = invented()
    shown = found.scores["psnr"][quantile_rows(found, 5)]
    ordered = np.sort(found.scores["psnr"])
    assert shown.tolist() == ordered[[0, 10, 20, 29, 39]].tolist()
    assert len(quantile_rows(invented(3), 8)) == 3
