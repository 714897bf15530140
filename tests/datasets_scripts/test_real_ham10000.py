"""The full archive: counts, leakage, duplicates, and the time and memory of a build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from datasets_scripts.audit import leak_audit
from datasets_scripts.sources import ham10000
from datasets_scripts.splits import random_stratified

pytestmark = [pytest.mark.real, pytest.mark.slow]

COUNTS = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}
MEASURED = """
import json, resource, sys, time
from pathlib import Path
start = time.monotonic()
from datasets_scripts.build_ham10000 import main
main(["--source", sys.argv[1], "--out", sys.argv[2]])
usage = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss keeps the peak of the process that started this one (a test worker that held a ViT-L); VmHWM is its own.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
used = {"seconds": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime}
used["bytes"] = int(peak.split()[1]) * 1024
print(json.dumps(used))
"""


@pytest.fixture(scope="module")
def measured(data_dir, repo_root, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("real") / "ham10000"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(data_dir / "ham10000"), str(out)],
        cwd=repo_root,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


def test_ten_thousand_images_take_under_two_minutes_and_two_gigabytes(measured):
    _, used = measured
    # Processor seconds hold on a busy machine too: 2 cores for 2 minutes are 240 of them.
    assert used["cpu"] < 120
    assert used["seconds"] < 120 or os.getloadavg()[0] > (os.cpu_count() or 1)
    assert used["bytes"] < 2e9


def test_counts(measured):
    out, _ = measured
    audit = json.loads((out / "audit.json").read_text())
    assert audit["rows"] == 10_015
    assert audit["per_class"] == COUNTS
    assert audit["missing"] == {"age": 57, "age_zero": 39, "sex": 57, "localization": 234, "mask": 0}
    assert audit["warnings"] == []
    published = datasets.load_dataset(str(out), "published")
    assert {split: rows.num_rows for split, rows in published.items()} == {
        "train": 7966,
        "validation": 996,
        "test": 996,
    }
    grouped = datasets.load_dataset(str(out), "grouped")
    shares = {split: rows.num_rows / 10_015 for split, rows in grouped.items()}
    assert shares == pytest.approx({"train": 0.60, "validation": 0.10, "calibration": 0.15, "test": 0.15}, abs=0.005)
    for split, rows in grouped.items():
        own = np.bincount(rows["label"][:], minlength=7) / rows.num_rows
        assert own == pytest.approx([n / 10_015 for n in COUNTS.values()], abs=0.005), split


def test_duplicates(measured):
    out, _ = measured
    found = json.loads((out / "audit.json").read_text())["duplicates"]
    assert found["exact"] == [["ISIC_0024366", "ISIC_0029861"], ["ISIC_0024777", "ISIC_0029938"]]
    assert 94 <= found["near_pairs"] <= 110
    # One photo of the archive stands under two lesion ids, with another white balance.
    assert found["across_lesions"] == [["ISIC_0025226", "ISIC_0030074"]]
    assert (found["lesions"], found["groups"]) == (7470, 7469)
    assert found["contradicting_labels"] == []


def test_leakage_of_the_published_split(measured):
    out, _ = measured
    leak = json.loads((out / "audit.json").read_text())["leak"]
    assert leak["published"]["test"]["share"] == pytest.approx(0.39, abs=0.03)
    assert leak["published"]["test"]["per_class"]["mel"]["share"] == pytest.approx(0.69, abs=0.06)
    assert [leak[config]["test"]["leaking"] for config in ("grouped", "release", "fold0", "fold4")] == [0] * 4


def test_leakage_of_random_splits_on_average(data_dir):
    rows = ham10000.read(str(data_dir / "ham10000"), with_masks=False).rows
    labels = [row.label for row in rows]
    shares: dict[str, list[float]] = {}
    for seed in range(10):
        split = random_stratified(labels, seed)
        train = [row.lesion_id for row, part in zip(rows, split, strict=True) if part == "train"]
        test = [row for row, part in zip(rows, split, strict=True) if part == "test"]
        found = leak_audit(train, [row.lesion_id for row in test], [row.label for row in test])
        shares.setdefault("all", []).append(found["share"])
        for label in ("mel", "bcc", "bkl", "nv"):
            shares.setdefault(label, []).append(found["per_class"][label]["share"])
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    assert means == pytest.approx({"all": 0.39, "mel": 0.69, "bcc": 0.57, "bkl": 0.52, "nv": 0.30}, abs=0.03)
