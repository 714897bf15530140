from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import processes
import pytest
from hub_server import LoopbackHub

from datasets_scripts import build_dermx, build_ham10000, build_phantom
from datasets_scripts.command import UserError, run
from datasets_scripts.sources import ham10000
from datasets_scripts.taxonomy import TASKS

LABELS = list(TASKS["ham10000"])


def refused(main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with exit code 2, and give its only line on stderr."""
    with pytest.raises(SystemExit) as caught:
        run(lambda: main(arguments))
    assert caught.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_ham10000(archive, tmp_path, capsys):
    out = tmp_path / "out"
    build_ham10000.main(["--source", str(archive), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "116 images written to" in printed
    table = [line.split() for line in printed.splitlines() if line.split()[:2] == ["published", "test"]]
    published = datasets.load_dataset(str(out), "published")
    leaking = sum(g in set(published["train"]["group_id"]) for g in published["test"]["group_id"])
    assert table[0][2:4] == [str(published["test"].num_rows), str(leaking)]
    assert leaking > 0
    assert sum(split.num_rows for split in published.values()) == 114  # two images have no age
    assert [published[s].num_rows for s in ("train", "validation", "test")] == [91, 11, 12]
    assert None not in published["train"]["age"][:]
    grouped = datasets.load_dataset(str(out), "grouped")
    assert sum(split.num_rows for split in grouped.values()) == 116
    assert grouped["train"].features["label"].names == LABELS


def test_dermx(archive, acne, tmp_path, capsys):
    out = tmp_path / "out"
    build_dermx.main(["--ham10000", str(archive), "--dermnet", str(acne), "--out", str(out)])
    captured = capsys.readouterr()
    assert "130 images written to" in captured.out
    assert "warning: 1 images of other DermNet classes were left out." in captured.err
    published = datasets.load_dataset(str(out), "published")
    assert published["train"].features["label"].names == [*LABELS, "acne"]
    assert [published[s].num_rows for s in ("train", "validation", "test")] == [104, 13, 13]
    rows = datasets.concatenate_datasets(list(published.values()))
    assert Counter(zip(rows["source"], rows["license"], strict=True)) == {
        ("HAM10000", "cc-by-nc-4.0"): 116,
        ("DermNet", "unknown"): 14,
    }
    card = (out / "README.md").read_text()
    assert "license: other" in card
    assert "have no licence" in card


def test_zipped_archive_and_mirror_give_the_same_grouped_splits(archive, ham_records, make_mirror, tmp_path):
    mirror = make_mirror(ham_records)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", archive)
    found = []
    for number, source in enumerate((str(archive), packed, str(mirror))):
        out = tmp_path / f"out{number}"
        build_ham10000.main(["--source", source, "--out", str(out), "--no-masks"])
        loaded = datasets.load_dataset(str(out), "grouped")
        assert "mask" not in loaded["train"].features
        found.append({split: sorted(loaded[split]["image_id"]) for split in loaded})
    assert found[0] == found[1] == found[2]
    assert (tmp_path / "out0" / "manifest.json").read_bytes() == (tmp_path / "out1" / "manifest.json").read_bytes()


FROM_HUB = """
import sys
from huggingface_hub import HfApi
from datasets_scripts import build_ham10000
from datasets_scripts.command import run
HfApi().create_repo("org/mirror", repo_type="dataset")
HfApi().upload_folder(repo_id="org/mirror", repo_type="dataset", folder_path=sys.argv[1])
build_ham10000.main(["--source", "org/mirror", "--out", sys.argv[2]])
run(lambda: build_ham10000.main(["--source", "org/absent", "--out", sys.argv[2] + "2"]))
"""


def test_a_mirror_on_the_hub(ham_records, make_mirror, tmp_path, repo_root):
    with LoopbackHub() as hub:
        done = processes.run(
            [sys.executable, "-c", FROM_HUB, str(make_mirror(ham_records)), str(tmp_path / "out")],
            env=hub.client_env(tmp_path),
            cwd=repo_root,
        )
    repeats = len(ham_records[::3]) + len(ham_records[::7])
    assert f"warning: {repeats} repeated rows" in done.stderr
    assert "116 images written to" in done.stdout
    grouped = datasets.load_dataset(str(tmp_path / "out"), "grouped")
    assert sum(split.num_rows for split in grouped.values()) == 116
    assert done.returncode == 2  # the second build requested a dataset that is not on the Hub
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 'org/absent' is neither a folder here nor a dataset")
    assert "Traceback" not in done.stderr


def test_the_full_archive_must_give_the_published_counts(archive, monkeypatch):
    rows = ham10000.read(str(archive)).rows
    monkeypatch.setattr(ham10000, "FULL_ROWS", len(rows))
    with pytest.raises(UserError, match=r"published were \{'train': 7966, 'validation': 996, 'test': 996\}"):
        build_ham10000.published_split(rows, 42)


def test_bad_input_ends_with_one_line_and_exit_code_2(archive, acne, ham_records, save_table, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    ham = build_ham10000.main
    assert "does not exist" in refused(ham, ["--source", str(tmp_path / "no"), *out], capsys)
    assert "is not empty" in refused(ham, ["--source", str(archive), "--out", str(archive)], capsys)
    dermx = ["--ham10000", str(archive), "--dermnet", str(tmp_path / "no"), *out]
    assert "does not exist" in refused(build_dermx.main, dermx, capsys)
    image = archive / "HAM10000_images_part_1" / f"{ham_records[0]['image_id']}.jpg"
    whole = image.read_bytes()
    for spoilt, message in ((whole[:300], "cannot be decoded"), (b"", "is empty (0 bytes)")):
        image.write_bytes(spoilt)
        line = refused(ham, ["--source", str(archive), *out], capsys)
        assert line.startswith(f"error: image {ham_records[0]['image_id']}: ")
        assert message in line
    image.write_bytes(whole)
    df = [record for record in ham_records if record["dx"] == "df"]
    save_table(archive / "HAM10000_metadata.csv", [r for r in ham_records if r["dx"] != "df"] + df[:3])
    assert "class 'df' has 3 images" in refused(ham, ["--source", str(archive), *out], capsys)
    assert list(tmp_path.glob("out*")) == []


def test_the_command_itself_has_no_traceback(tmp_path, repo_root):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "datasets_scripts.build_ham10000",
            "--source",
            "./nowhere",
            "--out",
            str(tmp_path / "o"),
        ],
        cwd=repo_root,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: archive folder nowhere does not exist; give the folder of the download\n"


@pytest.mark.parametrize("main", [build_ham10000.main, build_dermx.main])
def test_help_states_defaults(main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "default: 42" in capsys.readouterr().out


def test_a_folder_rebuilt_in_the_same_place_is_not_read_from_the_cache(tmp_path: Path) -> None:
    out, cache = tmp_path / "phantoms", str(tmp_path / "cache")
    widths = []
    for size in ("32x24", "40x30"):  # same shards by name, other content
        build_phantom.main(["--task", "isic2017", "--images", "60", "--seed", "1", "--size", size, "--out", str(out)])
        rows = datasets.load_dataset(str(out), "grouped", split="test", cache_dir=cache)
        widths.append({image.width for image in rows["image"]})
        shutil.rmtree(out)
    assert widths == [{32}, {40}]
