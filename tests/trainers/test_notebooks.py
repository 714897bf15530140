"""The tutorial notebook runs as it is written, with fewer and smaller images."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import nbformat
import processes

NOTEBOOK = Path(__file__).parents[2] / "trainers" / "notebooks" / "own_data.ipynb"
TINY = "IMAGES_PER_CLASS, IMAGE_SIZE, BACKBONE, EPOCHS, REPLICATES = 24, 32, 'mobilenetv2_035', 1, 10"
# Runs cells as a kernel does, without a kernel that imports torch again; writes what each of them showed. It asks the
# test to start the page, which need not import torch again either.
SHELL = """
import json, os, subprocess, sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

class Page:
    def __init__(self, command, env, **_):
        with open(sys.argv[3] + ".partial", "w") as file:
            json.dump({"command": command, "env": env, "cwd": os.getcwd()}, file)
        os.replace(file.name, sys.argv[3])

    def terminate(self):
        os.remove(sys.argv[3])

    def wait(self):
        return 0

Popen = subprocess.Popen
subprocess.Popen = lambda command, **given: (Page if "app.py" in command[1] else Popen)(command, **given)
shell, shown = InteractiveShell.instance(), []
for source in json.load(open(sys.argv[1])):
    with capture_output() as said:
        result = shell.run_cell(source, store_history=True)
    result.raise_error()
    shown.append(said.stdout + said.stderr + str(getattr(result.result, "data", "")))  # Markdown's
    json.dump(shown, open(sys.argv[2], "w"))
"""


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell printed or returned."""
    return [
        "".join(output.get("text", "") or str(output.get("data", {})) for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def run_cells(cells: Path, found: Path, page: Path) -> None:
    """Run the cells in a process, and beside it the page that they ask for in the file ``page``, until they end it."""
    errors, env = cells.with_name("stderr"), {**os.environ, "IPYTHONDIR": str(cells.with_name("ipython"))}
    command = [sys.executable, "-c", SHELL, *map(str, (cells, found, page))]
    running = [processes.Process(command, env=env, cwd=NOTEBOOK.parent, stderr=str(errors))]
    try:
        deadline = time.monotonic() + 900
        while running[0].poll() is None:
            assert time.monotonic() < deadline
            if page.exists() != (len(running) == 2):
                if len(running) == 2:
                    running[1].terminate()
                    running.pop().wait()
                else:
                    running.append(processes.Process(**json.loads(page.read_text())))
            time.sleep(0.05)
        assert running[0].returncode == 0, errors.read_text()[-3000:]
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_the_tutorial_runs_and_its_outputs_are_committed(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = shown(notebook)
    assert [cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code"] == list(
        range(1, len(kept) + 1)
    )
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    settings.source = f"WORK = Path({str(tmp_path / 'work')!r})\n{TINY}"
    cells, found, page = (tmp_path / f"{name}.json" for name in ("cells", "shown", "page"))
    cells.write_text(json.dumps([cell.source for cell in notebook.cells if cell.cell_type == "code"]))
    run_cells(cells, found, page)
    for outputs in (kept, json.loads(found.read_text())):
        text = "\n".join(outputs)
        assert "3 classes written to" in text
        assert "is a complete Hub repo" in text
        assert "test images, each counted as a lesion of its own" in text
        assert "org/own-images" in text
        assert "'p_malignant': None" in text
        assert not [
            word for word in ("Traceback", "error:", "/home/", "/root/", "/tmp/pytest") if word in "\n".join(kept)
        ]
        assert outputs[-2].strip().endswith(".")  # the message that the page gave
