"""Run by the autoencoder's test in a clean process: load a saved folder without this repository, and write the outputs.

Usage: remote_autoencoder_check.py FOLDER REPO_ROOT. Reads *.png of the working directory, writes remote.json there.
"""

import json
import sys
from pathlib import Path

# A user has neither our packages nor OpenCV. None makes an import fail as if nothing were installed.
for name in ("hub_models", "trainers", "datasets_scripts", "model_cards", "cv2"):
    sys.modules[name] = None

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoImageProcessor, AutoModel, pipeline  # noqa: E402


def main() -> None:
    folder, repo_root = sys.argv[1:]
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    paths = sorted(str(path) for path in Path().glob("*.png"))
    pixels = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        codes = model.encode(pixels)
        drawn = model.to_images(model.decode(codes))
    try:
        model.encode(torch.zeros(1, 3, 40, 40))
        refused = ["nothing", "was raised"]
    except ValueError as error:
        refused = [type(error).__name__, str(error)]
    extract = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
    model.save_pretrained("again")
    again = AutoModel.from_pretrained("again", trust_remote_code=True).eval()
    with torch.no_grad():
        codes_again = again.encode(pixels)
    files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    ours = [f for f in files if f.startswith(repo_root + "/") and "site-packages" not in f and f != __file__]
    result = {
        "model_module": type(model).__module__,
        "ours": ours,
        "pixels": pixels.tolist(),
        "codes": codes.tolist(),
        "drawn": drawn.tolist(),
        "codes_of_pipeline": [extract(path)[0] for path in paths],
        "codes_saved_again": codes_again.tolist(),
        "files_saved_again": sorted(path.name for path in Path("again").iterdir()),
        "refused": refused,
    }
    Path("remote.json").write_text(json.dumps(result))


main()
