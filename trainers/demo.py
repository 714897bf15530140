"""The whole chain on drawn phantoms, each step the command a user would type: ``make demo``.

archive -> dataset -> ensemble -> predictions -> trust -> report -> card -> published -> loaded again by name -> three
answers: one it is sure of, one it cannot decide, and an image of no skin at all, which it declines. The Hub is a real
HTTP one on this machine's loopback address; nothing leaves the machine.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run
from datasets_scripts.output import beside, locked

ROOT = Path(__file__).resolve().parents[1]
REPO_ID = "org/phantom-ensemble"
IMAGES, SIZE, SEED, TASK = 2600, "96x72", 0, "isic2017"
NEW = 987_654  # lesions from this number on are in no dataset
CANDIDATES = 16  # of each class, of which a clear and an ambiguous one are shown
# What a reader of the card would type: nothing of this project is imported.
ASK = """
import sys
from pathlib import Path
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
repo, commit, folder = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(repo, revision=commit, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(repo, revision=commit, trust_remote_code=True)
names, answers = model.config.label_names, {}
for path in sorted(Path(folder).iterdir()):
    answers[path.name] = model.predict(**processor(images=Image.open(path), return_tensors="pt"))[0]

def entropy(name):
    return answers[name]["predictive_entropy"]

def likeliest(name):
    return sorted(answers[name]["probabilities"].items(), key=lambda item: -item[1])

def in_full(name):
    return all(names[label] in answers[name]["message"] for label in answers[name]["prediction_set"])

drawn = [name for name in answers if not name.startswith("no_skin")]
answered = [name for name in drawn if not answers[name]["abstain"]]
right = [name for name in answered if name.startswith(answers[name]["predicted"] + "_")]
low = [name for name in right if answers[name]["band"] == "low" and len(answers[name]["prediction_set"]) == 1]
# The two most probable classes, the true one among them, both named by the message; rather with moderate uncertainty.
two = [name for name in drawn
       if set(answers[name]["prediction_set"] or []) == {label for label, _ in likeliest(name)[:2]}
       and in_full(name) and name.rpartition("_")[0] in answers[name]["prediction_set"]]
two = ([name for name in two if answers[name]["band"] == "moderate"] or [name for name in two if name in answered]
       or two)
no_skin = [name for name in answers if name.startswith("no_skin")]
counts = [sum(answers[name]["abstain"] for name in some) for some in (drawn, no_skin)]
print(f"declined: {counts[0]} of {len(drawn)} drawn lesions, {counts[1]} of {len(no_skin)} images of no skin")
chosen = {"a clear lesion": min(low, key=entropy, default=None),
          "an ambiguous one": max(two, key=entropy, default=None),
          "no skin at all": max(no_skin, key=lambda name: answers[name]["ood_score"])}
for title, name in chosen.items():
    if name is None:
        print(f"\\n{title}: none among these")
        continue
    answer = answers[name]
    best = ", ".join(f"{label} {p:.2f}" for label, p in likeliest(name)[:3])
    print(f"\\n{title} ({name}): {answer['message']}")
    if not answer["abstain"]:
        print(f"    band {answer['band']} | set {{{', '.join(answer['prediction_set'])}}} | {best} | "
              f"aleatoric {answer['aleatoric']:.2f} + epistemic {answer['epistemic']:.2f} nats | "
              f"p_malignant {answer['p_malignant']:.2f}")
"""


def step(
    title: str, command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None, shown: str = ""
) -> str:
    """Run one command of the chain, showing it, what it prints and its time; returns what it printed on stdout.

    Raises:
        UserError: it failed; its own message stands above.
    """
    print(
        f"\n== {title}\n$ {shown or shlex.join(['python' if word == sys.executable else word for word in command])}",
        flush=True,
    )
    started, before = time.perf_counter(), child_seconds()
    lines = []
    with subprocess.Popen(command, env=env, cwd=cwd or ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            print(line, end="", flush=True)
    if process.returncode:
        raise UserError(
            f"the demo stopped at the step {title!r} (exit code {process.returncode}); its message stands above"
        )
    seconds, busy = time.perf_counter() - started, child_seconds() - before
    print(f"-- {title}: {seconds:.0f} s ({busy:.0f} s of CPU)", flush=True)
    return "".join(lines)


def child_seconds() -> float:
    """Seconds of CPU that all ended child processes, and theirs, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def loopback_hub(home: Path) -> Iterator[dict[str, str]]:
    """A Hub on the loopback address; yields the environment that points a client at it."""
    server = ROOT / "tests" / "hub_server.py"
    if not server.is_file():
        raise UserError(f"{server.relative_to(ROOT)} is missing: run the demo from a checkout of the repository")
    process = subprocess.Popen([sys.executable, str(server)], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = dict(re.findall(r"(HF_\w+)=(\S+)", line))
        if "HF_ENDPOINT" not in found:
            raise UserError("the loopback Hub did not start; its message stands above")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        yield {
            **kept,
            **found,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
    finally:
        process.terminate()
        process.wait(timeout=10)


def draw_examples(folder: Path) -> None:
    """Phantoms that the dataset does not hold, and images of no skin, saved where the last step finds them."""
    from datasets_scripts.phantom import draw
    from datasets_scripts.taxonomy import TASKS

    folder.mkdir(parents=True)
    width, height = SIZE.split("x")
    size = (int(width), int(height))
    for number in range(CANDIDATES):
        for label in TASKS[TASK]:
            draw(label, NEW + number, size).image.save(folder / f"{label}_{number}.png")
        draw("random", NEW + number, size).image.save(folder / f"no_skin_{number}.png")


def demo(out: Path) -> None:
    """Run the chain into ``out`` (replaced if an earlier demo stands there).

    Raises:
        UserError: a step failed, ``out`` holds something else, or another demo writes it.
    """
    with locked(out):
        run_steps(out)


def run_steps(out: Path) -> None:
    """As :func:`demo`, into a folder that this process holds."""
    started = time.perf_counter()
    if out.exists():
        if not (out / "dataset").exists() and any(out.iterdir()):
            raise UserError(f"{out} holds something else than an earlier demo: choose another --output_dir")
        shutil.rmtree(out)
    shutil.rmtree(beside(out), ignore_errors=True)
    out.mkdir(parents=True)
    python, relative = sys.executable, os.path.relpath(out, ROOT)
    drawn = f"--task {TASK} --images {IMAGES} --size {SIZE} --seed {SEED}".split()
    build = [python, "-m", "datasets_scripts.build_phantom", *drawn]
    step("draw a dataset of phantoms", [*build, "--out", f"{relative}/dataset"])
    launch = [
        python,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),  # else it warns of each
        "trainers/train_ensemble.py",
        "--recipe",
        "ensemble_demo",
    ]
    train = [*launch, "--dataset", f"{relative}/dataset", "--output_dir", f"{relative}/model"]
    step(
        "train three members, fit trust, evaluate, describe",
        train,
        shown=shlex.join(["accelerate", "launch", *train[train.index("trainers/train_ensemble.py") :]]),
    )
    # A promise of 5 % needs more calibration lesions than a demo has time to draw: it asks for less.
    promises = ["--low_risk", "0.2", "--moderate_risk", "0.25", "--low_missed", "0.25", "--moderate_missed", "0.3"]
    fit = [python, "-m", "trainers.fit_trust", f"{relative}/model", "--dataset", f"{relative}/dataset", *promises]
    fit += ["--bootstrap_replicates", "100"]
    step("fit other promises, without training again", [*fit, "--output_dir", f"{relative}/trusted"])
    step("verify card and files", [python, "-m", "model_cards.verify", f"{relative}/trusted"])
    draw_examples(out / "examples")
    with loopback_hub(out / "hub_cache") as env:
        published = step(
            "publish to a Hub on loopback",
            [python, "-m", "model_cards.publish", f"{relative}/trusted", "--repo-id", REPO_ID],
            env,
        )
        commit = published.rstrip().rpartition("/commit/")[2]  # the last line is its URL
        ask = [python, "-I", "-c", ASK, REPO_ID, commit, str(out / "examples")]
        shown = (
            f"python: AutoModelForImageClassification.from_pretrained({REPO_ID!r}, revision={commit!r}, "
            "trust_remote_code=True).predict(...)"
        )
        step("load it by name, ask it about new phantoms", ask, env, cwd=out, shown=shown)
    print(
        f"\nDone in {time.perf_counter() - started:.0f} s ({child_seconds():.0f} s of CPU). "
        f"The card: {relative}/trusted/README.md, its numbers: report.json beside it."
    )
    print("These are drawings: the figures show that the chain works and say nothing about skin.")
    print(f"See it in a browser: make space MODEL={relative}/trusted")


def main() -> None:
    """Parse the command line and run the demo."""
    parser = OneLineParser(prog="python -m trainers.demo", description=__doc__)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/demo"), help="where everything goes (default %(default)s)"
    )
    demo(parser.parse_args().output_dir.resolve())


if __name__ == "__main__":
    run(main)
