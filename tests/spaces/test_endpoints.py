"""The endpoints: stable names and types, uploads that leave nothing behind, and a burst of requests."""

from __future__ import annotations

import importlib
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from hub_server import LoopbackHub
from huggingface_hub import HfApi
from PIL import Image

CLIENTS, REQUESTS = 6, 30


@pytest.fixture(scope="module")
def client(page: Any, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(page.url, verbose=False, download_files=str(tmp_path_factory.mktemp("client")))


def test_names_and_types_that_stay(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {name: [p["parameter_name"] for p in info["parameters"]] for name, info in named.items()} == {
        "/predict": ["photo", "model", "prevalence", "age", "sex", "localization"],
        "/explain": ["photo", "model", "age", "sex", "localization"],
        "/predict_many": ["files", "model"],
        "/compare": ["photo", "models"],
        "/similar": ["photo"],
        "/models": [],
        "/about": ["model"],
    }
    optional = [p["parameter_has_default"] for p in named["/predict"]["parameters"]]
    assert optional == [False, True, True, True, True, True]


def test_predict(client: Client, trusted: Any, model_folder: Path, photo: Path, expected: dict[str, Any]) -> None:
    answer = client.predict(handle_file(photo), model_folder.name, api_name="/predict")
    assert set(answer) == {*expected, "model"}
    assert answer["reason"] == "trust_not_asked"  # this model was never fitted
    for key in ("probabilities", "p_malignant", "predictive_entropy"):
        assert answer[key] == pytest.approx(expected[key], abs=1e-5)
    first = client.predict(handle_file(trusted.images["low"]), None, api_name="/predict")
    assert (first["model"], first["band"]) == (trusted.folder.name, "low")
    assert client.predict(handle_file(trusted.images["low"]), api_name="/predict") == first
    reweighted = client.predict(handle_file(trusted.images["low"]), prevalence=0.9, api_name="/predict")
    assert (reweighted["band"], reweighted["reason"]) == (None, "other_prior")
    assert client.predict(handle_file(trusted.images["high"]), api_name="/predict")["abstain"] is True
    record = {"age": 70, "sex": "male", "localization": "back"}
    fused = client.predict(handle_file(photo), "tiny-fusion", **record, api_name="/predict")
    assert (
        fused["probabilities"]
        != client.predict(handle_file(photo), "tiny-fusion", api_name="/predict")["probabilities"]
    )
    wrong = client.predict(handle_file(photo), "tiny-fusion", age=900, api_name="/predict")
    assert set(wrong) == {"error"}
    assert "age is 900" in wrong["error"]
    assert "no model 'other'" in client.predict(handle_file(photo), "other", api_name="/predict")["error"]


def test_the_other_endpoints(client: Client, trusted: Any, photo: Path) -> None:
    low, high = (handle_file(trusted.images[state]) for state in ("low", "high"))
    shown = client.predict(low, api_name="/explain")
    assert (shown["state"], shown["title"]) == ("low", "Answered")
    assert "At most 5 %" in shown["words"]
    assert shown["heat_map"].startswith("data:image/png;base64,")
    shown = client.predict(high, api_name="/explain")
    assert (shown["state"], shown["explained"], shown["heat_map"]) == ("declined", None, None)
    rows = client.predict([low, high, handle_file(__file__)], api_name="/predict_many")["rows"]
    assert [row["reason"] for row in rows] == ["answered", "high_uncertainty", "unreadable"]
    assert rows[1]["predicted"] is None
    both = client.predict(low, [trusted.folder.name, "gone"], api_name="/compare")
    assert both[trusted.folder.name]["band"] == "low"
    assert both["gone"]["error"].startswith("The model gone could not be loaded: its folder is not there.")
    assert client.predict(api_name="/models") == [trusted.folder.name, "tiny-derm-x", "tiny-fusion", "gone"]
    about = client.predict(api_name="/about")
    assert (about["manifest"], about["trust_is_fitted"], about["problems"]) == ("matches", True, [])


def test_files_of_the_machine_are_not_looked_at(client: Client, page: Any, trusted: Any, repo_root: Path) -> None:
    """A path, as a text or dressed up as an upload, leads nowhere outside the folder of uploads."""
    inside = repo_root / "spaces" / "lesion_demo" / "examples" / "drawn_nv.jpg"
    for path in (str(inside), {"path": str(inside)}, f"{trusted.folder}/figures/gate_test.png"):
        answer = client.predict(path, api_name="/predict")
        assert "was not uploaded here" in answer["error"]
    dressed = {"path": str(inside), "meta": {"_type": "gradio.FileData"}}
    url = client.src.rstrip("/")
    assert asked_raw(url, [dressed, None, None, None, None, None]).startswith("event: error")
    assert asked_raw(url, [dressed]).startswith("event: error")
    # A path that no system takes breaks a route of Gradio's own, and Uvicorn writes what it was.
    assert httpx.get(f"{url}/static/{inside.name * 50}", timeout=60).status_code == 500
    deadline = time.monotonic() + 60  # it writes after it has answered
    broken = re.compile(r"Exception in ASGI application\n( .*\n)+OSError\n")
    while not broken.search(page.log.read_text(errors="replace")) and time.monotonic() < deadline:
        time.sleep(0.2)
    log = page.log.read_text(errors="replace")
    assert broken.search(log)
    assert "InvalidPathError" in log
    assert "A request failed" in log
    assert inside.name not in log


def test_wrong_requests_get_an_error_in_words(client: Client, trusted: Any, photo: Path) -> None:
    """None of these may end in a bare "internal error", or in a stream that breaks and leaves the client waiting."""

    def error_text(*requested: Any, name: str, **more: Any) -> str:
        answer = client.submit(*requested, api_name=name, **more).result(timeout=240)
        assert set(answer) == {"error"}, answer
        return str(answer["error"])

    drawn = handle_file(photo)
    for name in ("/predict", "/explain", "/compare"):
        assert error_text(None, name=name).startswith("No image was given.")
    for name, given in (("/predict", drawn), ("/explain", drawn), ("/predict_many", [drawn])):
        assert error_text(given, ["tiny-derm-x"], name=name) == "model is ['tiny-derm-x']; give one name, not list."
    for models in ([None], [5], "tiny-derm-x", {"a": 1}):
        assert error_text(drawn, models, name="/compare") == f"models is {models!r}; give a list of names of /models."
    assert error_text(drawn, ["tiny-derm-x"] * 5, name="/compare").startswith("models has 5 names; at most 4")
    assert error_text(model=["gone"], name="/about").startswith("model is ['gone']; give one name")
    assert set(client.predict(drawn, api_name="/compare")) == {
        trusted.folder.name,
        "tiny-derm-x",
        "tiny-fusion",
        "gone",
    }


def asked_raw(url: str, data: list[Any]) -> str:
    """What a program gets that does not upload as Gradio's own client would."""
    event = httpx.post(f"{url}/gradio_api/call/predict", json={"data": data}, timeout=60).json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/predict/{event}", timeout=60).text


def test_uploads_leave_nothing_but_pixels(client: Client, page: Any, tmp_path: Path, trusted: Any) -> None:
    """EXIF is gone from the disk after the answer; a refused file is gone altogether; a turned photo is turned."""
    secret = "48.2082 N 16.3738 E"
    turned = tmp_path / "turned.png"
    with Image.open(trusted.images["low"]) as image:
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, secret  # to be shown turned by a quarter clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    assert secret.encode() in turned.read_bytes()
    upright = client.predict(handle_file(turned), api_name="/predict")
    straight = client.predict(handle_file(trusted.images["low"]), api_name="/predict")
    assert upright["probabilities"] == pytest.approx(straight["probabilities"], abs=1e-5)
    refused = tmp_path / "refused.png"
    refused.write_text(f"<svg>{secret}</svg>")
    assert "SVG" in client.predict(handle_file(refused), api_name="/predict")["error"]
    kept = [path for path in page.uploads.rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    assert "refused.png" not in {path.name for path in kept}
    assert all(path.is_relative_to(next(page.uploads.glob("lesion-uploads-*"))) for path in kept)
    assert page.log.read_text(errors="replace").count(secret) == 0


def test_a_question_without_an_answer_leaves_nothing_either(
    client: Client, page: Any, tmp_path: Path, trusted: Any
) -> None:
    """Whatever is wrong with the question: no file keeps its EXIF, and a refused batch is gone altogether."""

    def upload(name: str) -> tuple[bytes, Any]:
        secret = f"48.2082 N {name}"
        with Image.open(trusted.images["low"]) as image:
            exif = Image.Exif()
            exif[0x010E] = secret
            image.save(tmp_path / f"{name}.jpg", exif=exif)
        return secret.encode(), handle_file(tmp_path / f"{name}.jpg")

    def left() -> list[bytes]:
        return [path.read_bytes() for path in page.uploads.rglob("*") if path.is_file()]

    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("48.2082 N bomb.png", b"\0" * 9_000_000)
    fused = {"model": "tiny-fusion"}
    requested: list[tuple[str, dict[str, Any]]] = [
        ("/predict", {"model": "nope"}), ("/predict", {"model": "gone"}), ("/predict", {"prevalence": 5}),
        ("/predict", {**fused, "age": 900}), ("/explain", {"model": "nope"}), ("/compare", {"models": ["nope"]}),
        ("/compare", {"models": [5]}),
    ]  # fmt: skip
    for number, (endpoint, more) in enumerate(requested):
        secret, drawn = upload(f"{number}")
        answer = client.predict(drawn, api_name=endpoint, **more)
        assert "error" in (answer.get("nope") or answer), (endpoint, more)
        assert not any(secret in content for content in left()), (endpoint, more)
    for model, more_files in (("nope", []), ("gone", []), (None, [handle_file(bomb)])):
        secret, drawn = upload(f"batch {model}")
        assert "error" in client.predict([drawn, *more_files], model, api_name="/predict_many")
        assert not any(secret in content for content in left()), model
    assert not any(b"48.2082 N bomb" in content for content in left())


def test_a_large_photograph_can_be_submitted_more_than_once(
    parts: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it has more bytes than an upload may have; Gradio copies it elsewhere, as it has changed."""
    noise = np.random.default_rng(0).integers(0, 255, (120, 130, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "phone.jpg", quality=80)
    limit = 35_000
    monkeypatch.setattr(parts.service, "LARGEST_FILE", limit)
    files = parts.temporary_files.TemporaryFiles(str(tmp_path))
    store = parts.model_loading.ModelStore(parts.model_loading.parse_models(str(model_folder)))
    endpoints = importlib.import_module("endpoints")._Endpoints(parts.service.Service(store, files), None, None)
    path = files.copy(tmp_path / "phone.jpg")
    assert Path(path).stat().st_size < limit
    first = endpoints.predict(path)
    assert first["model"] == model_folder.name
    assert Path(path).stat().st_size > limit
    assert endpoints.predict(files.copy(Path(path))) == first
    assert endpoints.compare({"path": path}) == {model_folder.name: first}
    assert endpoints.predict_many([path])["rows"][0]["predicted"] == first["predicted"]
    too_large = tmp_path / "other.png"
    Image.fromarray(noise[::-1]).save(too_large)
    assert "error" in endpoints.predict(files.copy(too_large)), "the limit holds for what was not written here"


def test_a_burst_is_served_or_politely_refused(page: Any, photo: Path, tmp_path: Path) -> None:
    """Thirty requests of six clients at once: each ends with an answer, or with a word that the queue is full."""
    patient = {"timeout": 300}  # of the test machine's load, not of the page, not measured here
    clients = [
        Client(page.url, verbose=False, download_files=str(tmp_path), httpx_kwargs=patient) for _ in range(CLIENTS)
    ]
    answered: list[dict[str, Any]] = []
    refused: list[str] = []

    def burst(mine: Client) -> None:
        jobs = [mine.submit(handle_file(photo), "tiny-derm-x", api_name="/predict") for _ in range(REQUESTS // CLIENTS)]
        for job in jobs:
            try:
                answered.append(job.result(timeout=120))
            except Exception as error:
                refused.append(str(error))

    process = psutil.Process(page.pid)
    memory = []
    for _ in range(2):  # the first round fills caches that stay
        threads = [threading.Thread(target=burst, args=(mine,)) for mine in clients]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory.append(process.memory_info().rss / 1e6)
    print(
        f"{len(answered)} answered, {len(refused)} refused; RSS {memory}; last round {time.monotonic() - started:.1f} s"
    )
    assert len(answered) + len(refused) == 2 * REQUESTS, "none is lost"
    assert all("probabilities" in answer for answer in answered)
    assert len(answered) >= REQUESTS
    assert all("full" in why.lower() for why in refused), refused[:1]
    assert memory[1] - memory[0] < 30, "flat"


def test_on_the_hub(
    hub: LoopbackHub, start_page: Callable[..., Any], trusted: Any, repo_root: Path, tmp_path: Path
) -> None:
    """With the Hub's environment, and our own folder `spaces/` on the import path, where Gradio looks for a library.

    Models of the Hub state their commit, pinned or not, and although `main` changes while the page runs; they are
    requested by title, name or id. A released model declines a drawn cloth.
    """
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    for name in ("org/pinned", "org/moving"):
        api.create_repo(name)
        api.upload_folder(repo_id=name, folder_path=trusted.folder)
    commits = {name: str(api.model_info(name).sha) for name in ("org/pinned", "org/moving")}
    on_hub = {"SYSTEM": "spaces", "SPACE_ID": "someone/lesion-demo", "PYTHONPATH": str(repo_root)}
    environment = hub.client_env(tmp_path, HF_HUB_OFFLINE="0", **on_hub)
    released = repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7"
    drawn = repo_root / "spaces" / "lesion_demo" / "examples"
    models = f"org/pinned@{commits['org/pinned']},org/moving,{released}"
    with start_page(models, **environment) as running:
        client = Client(running.url, verbose=False, download_files=str(tmp_path))
        titles = [f"pinned @ {commits['org/pinned'][:8]}", "moving", released.name]
        assert client.predict(api_name="/models") == titles
        photo = handle_file(drawn / "drawn_nv.jpg")
        answers = {name: client.predict(photo, name, api_name="/predict") for name in commits}
        assert [answer["model"] for answer in answers.values()] == titles[:2]
        cloth = client.predict(handle_file(drawn / "drawn_cloth.jpg"), released.name, api_name="/predict")
        assert (cloth["model"], cloth["reason"]) == (released.name, "out_of_distribution")
        api.upload_file(repo_id="org/moving", path_in_repo="LATER.md", path_or_fileobj=b"later")
        for name, commit in commits.items():
            about = client.predict(name.split("/")[1], api_name="/about")
            assert (about["commit"], about["manifest"], about["problems"]) == (commit, "matches", [])
        uploads = list(running.uploads.glob("lesion-uploads-*"))
        assert len(uploads) == 1
    assert not uploads[0].exists(), "emptied at the end"


def test_page_without_a_model_stays_up(app: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESION_MODELS", "")
    page = app.page_from_environment()
    [predict] = [function.fn for function in page.fns.values() if function.api_name == "predict"]
    answer = predict(app.FILES.copy(photo))
    assert set(answer) == {"error"}
    assert "No model is set" in answer["error"]
    assert "LESION_MODELS=" in answer["error"]
