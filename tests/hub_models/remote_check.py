"""Run by the model tester in a clean process: load a saved folder without this repository, and write the outputs.

Usage: remote_check.py FOLDER REPO_ROOT. Reads inputs.npz, records.json and *.png of the working directory, writes
remote.json there.
"""

import json
import sys
from pathlib import Path

# A user has neither our packages nor OpenCV. None makes an import fail as if nothing were installed.
for name in ("hub_models", "trainers", "datasets_scripts", "model_cards", "cv2"):
    sys.modules[name] = None

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline  # noqa: E402


def main() -> None:
    folder, repo_root = sys.argv[1:]
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = {name: torch.from_numpy(value) for name, value in np.load("inputs.npz").items()}
    images = [Image.open(path) for path in sorted(Path().glob("*.png"))]
    with torch.no_grad():
        logits = model(**inputs).logits

    classify = pipeline("image-classification", folder, trust_remote_code=True, top_k=len(model.config.labels))
    scores = [{row["label"]: row["score"] for row in rows} for rows in classify([str(p.filename) for p in images])]

    records = json.loads(Path("records.json").read_text())
    answer = pipeline(model=folder, trust_remote_code=True)
    wrong = {}
    for name, record in {"unknown_site": {"localization": "elbow"}, "unknown_key": {"dx_type": "histo"}}.items():
        try:
            answer({**records[0], **record})
            wrong[name] = ["nothing", "was raised"]
        except ValueError as error:
            wrong[name] = [type(error).__name__, str(error)]

    answer.save_pretrained("again")
    again = AutoModelForImageClassification.from_pretrained("again", trust_remote_code=True)
    with torch.no_grad():
        logits_again = again(**inputs).logits

    # The way of transformers: model and processor, each by its own save_pretrained.
    model.save_pretrained("alone")
    processor.save_pretrained("alone")
    features = AutoModel.from_pretrained("alone", trust_remote_code=True)
    with torch.no_grad():
        pooled = features(**inputs, output_hidden_states=True).pooler_output

    several = (tuple(records), np.stack([np.asarray(images[0])] * 2), [records])
    counts = [len(answer(inputs)) for inputs in several]

    try:
        AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, do_hair_removal=True)
        refused = ["nothing", "was raised"]
    except ValueError as error:
        refused = [type(error).__name__, str(error)]

    try:
        heat_maps = model.explain(**inputs, target=1).heat_maps.tolist()
    except ValueError as error:
        heat_maps = [type(error).__name__]

    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    ours = [f for f in files if f.startswith(repo_root + "/") and "site-packages" not in f and f != __file__]
    result = {
        "model_module": type(model).__module__,
        "ours": ours,
        "dtype": str(model.dtype),
        "logits": logits.tolist(),
        "logits_saved_again": logits_again.tolist(),
        "files_saved_again": sorted(path.name for path in Path("again").iterdir()),
        "inputs": {name: value.tolist() for name, value in processor(images, return_tensors="pt").items()},
        "predict": model.predict(**inputs, trust=True),
        "heat_maps": heat_maps,
        "pipeline": scores,
        "task": answer.task,
        "answers": answer(records),
        "answers_by_two": answer(records, batch_size=2),
        "answers_saved_again": pipeline(model="again", trust_remote_code=True)(records),
        "answers_saved_alone": pipeline("lesion-classification", "alone", trust_remote_code=True)(records),
        "features": pooled.tolist(),
        "one_answer_an_image": counts,
        "answer_to_a_path": answer(str(images[0].filename)),
        **wrong,
        "refused": refused,
    }
    Path("remote.json").write_text(json.dumps(result))


main()
