"""Measure the page with the released models: ``python -m tests.spaces.measure_page`` from the repository's root.

Prints, as a table for the Space's README: seconds from the command to the page and to the first answer, seconds an
answer takes once the model is loaded, memory, and a burst of 50 requests from 10 clients. For two cores set
OMP_NUM_THREADS=2.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
from gradio_client import Client, handle_file

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "hub_models" / "released"
MODELS = ("derm-x-mobilenetv2-ham7", "isic-skin-lesion-uncertainty")
PHOTO = ROOT / "spaces" / "lesion_demo" / "examples" / "drawn_bcc.jpg"
CLIENTS, REQUESTS, REPEATS, BURSTS = 10, 50, 10, 14


def main() -> None:
    """Start the page, send requests, and print the table."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "LESION_MODELS": ",".join(str(RELEASED / name) for name in MODELS),
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_OFFLINE": "1",
        }
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "spaces/lesion_demo/app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            measure(f"http://127.0.0.1:{port}", psutil.Process(process.pid), started, folder)
        finally:
            process.terminate()
            process.wait()


def measure(url: str, process: psutil.Process, started: float, folder: str) -> None:
    """Send requests to the page that is starting, and print the times."""
    while True:
        try:
            urllib.request.urlopen(url, timeout=60).close()
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    up = time.monotonic() - started
    client = new_client(url, folder)
    client.predict(handle_file(PHOTO), MODELS[0], api_name="/predict")
    first = time.monotonic() - started
    rows = [("Command to page", f"{up:.1f} s"), ("Command to first answer", f"{first:.1f} s, CPU {cpu(process):.1f} s")]
    for name in MODELS:
        client.predict(handle_file(PHOTO), name, api_name="/explain")
        times, before_cpu = [], cpu(process)
        for _ in range(REPEATS):
            before = time.monotonic()
            client.predict(handle_file(PHOTO), name, api_name="/explain")
            times.append(time.monotonic() - before)
        each = (cpu(process) - before_cpu) / REPEATS
        took = f"{statistics.median(times):.2f} ({max(times):.2f}) s, CPU {each:.2f} s"
        rows.append((f"Answer and heat map, {name}, with upload: median (longest) of {REPEATS}", took))
    rows.append(("Memory (RSS), both models loaded", f"{process.memory_info().rss / 1e6:.0f} MB"))
    for number in range(1, BURSTS + 1):
        answered, refused, seconds = burst(url, folder)
        memory = f"{process.memory_info().rss / 1e6:.0f} MB"
        lost = REQUESTS - answered - refused
        text = f"{answered} answered, {refused} refused (queue full), {lost} lost; {seconds:.1f} s; {memory}"
        rows.append((f"Burst {number}: {REQUESTS} requests of {CLIENTS} clients at once", text))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", file=sys.stderr)
    print("| | |\n|---|---|")
    for row in rows:
        print(f"| {row[0]} | {row[1]} |")


def cpu(process: psutil.Process) -> float:
    """Seconds that the page's process has computed so far: on a busy machine they say more than the clock."""
    spent = process.cpu_times()
    return spent.user + spent.system


def new_client(url: str, folder: str) -> Client:
    """A client that waits as long as it takes."""
    return Client(url, verbose=False, download_files=folder, httpx_kwargs={"timeout": 300})


def burst(url: str, folder: str) -> tuple[int, int, float]:
    """All requests at once: how many were answered and how many refused, and the seconds it took."""
    outcomes: list[str] = []
    clients = [new_client(url, folder) for _ in range(CLIENTS)]

    def send(client: Client) -> None:
        jobs = [client.submit(handle_file(PHOTO), MODELS[0], api_name="/predict") for _ in range(REQUESTS // CLIENTS)]
        for job in jobs:
            try:
                outcomes.append("answered" if "probabilities" in job.result() else "error")
            except Exception as error:
                outcomes.append("refused" if "full" in str(error).lower() else "error")

    before = time.monotonic()
    threads = [threading.Thread(target=send, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - before
    for client in clients:
        client.close()  # as visitors leave
    return outcomes.count("answered"), outcomes.count("refused"), seconds


if __name__ == "__main__":
    main()
