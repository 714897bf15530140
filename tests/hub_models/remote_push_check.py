"""Run by test_push_to_hub.py in a clean process: load, push, load again, fine-tune on other labels, as users do.

Usage: remote_push_check.py FOLDER. Talks to the Hub of ``HF_ENDPOINT``; writes pushed.json to the working directory.
"""

import json
import sys
import warnings
from pathlib import Path

for name in ("hub_models", "trainers", "datasets_scripts", "model_cards"):
    sys.modules[name] = None

import numpy as np  # noqa: E402
import torch  # noqa: E402
from huggingface_hub import hf_hub_download  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)


def main() -> None:
    folder = sys.argv[1]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    trusted = {"trust_remote_code": True}
    model = AutoModelForImageClassification.from_pretrained(folder, **trusted)
    processor = AutoImageProcessor.from_pretrained(folder, **trusted)
    model.push_to_hub("org/copy")
    processor.push_to_hub("org/copy")
    result = {
        "here": pipeline("lesion-classification", folder, **trusted)(image),
        "copy": pipeline("lesion-classification", "org/copy", **trusted)(image),
        "by_the_repo_alone": pipeline(model="org/copy", **trusted)(image),
    }
    inputs = processor(image, return_tensors="pt")
    features = AutoModel.from_pretrained("org/copy", **trusted)
    with torch.no_grad():
        result["width"] = features(**inputs).pooler_output.shape[1]

    labels = ["x", "y", "z"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuned = AutoModelForImageClassification.from_pretrained(
            "org/copy",
            num_labels=3,
            id2label={str(index): label for index, label in enumerate(labels)},
            label2id={label: str(index) for index, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
            **trusted,
        )
    result["warnings"] = [str(one.message) for one in caught if "dropped" in str(one.message)]
    rows = [{"pixel_values": inputs["pixel_values"][0], "labels": index % 3} for index in range(6)]
    settings = TrainingArguments(
        "tuned", max_steps=1, per_device_train_batch_size=6, eval_strategy="steps", eval_steps=1, use_cpu=True
    )
    trainer = Trainer(
        tuned,
        settings,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
        compute_metrics=lambda given: {"shape": list(given.predictions.shape)},
    )
    trainer.train()
    result["evaluated"] = trainer.evaluate()["eval_shape"]
    tuned.push_to_hub("org/tuned")
    processor.push_to_hub("org/tuned")
    again = AutoModelForImageClassification.from_pretrained("org/tuned", **trusted)
    with torch.no_grad():
        result["difference"] = float((again(**inputs).logits - tuned.eval()(**inputs).logits).abs().max())
    result["tuned"] = pipeline("lesion-classification", "org/tuned", **trusted)(image, trust=False)
    result["stock"] = [row["label"] for row in pipeline("image-classification", "org/tuned", **trusted)(image)]
    stored = json.loads(Path(hf_hub_download("org/tuned", "config.json")).read_text())
    result["code"] = [*stored["auto_map"].values(), *(one["impl"] for one in stored["custom_pipelines"].values())]
    Path("pushed.json").write_text(json.dumps(result))


main()
