"""BibTeX of what was fitted after training, for a model's card: only of what the model uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEMPERATURE = """@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {ICML},
  year = {2017}
}"""
BANDS = """@article{angelopoulos2025ltt,
  title   = {Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control},
  author  = {Angelopoulos, Anastasios N. and Bates, Stephen and Candes, Emmanuel J. and Jordan, Michael I. and
    Lei, Lihua},
  journal = {The Annals of Applied Statistics},
  year    = {2025}
}"""
BIAS = """@inproceedings{alexandari2020bcts,
  title     = {Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation},
  author    = {Alexandari, Amr and Kundaje, Anshul and Shrikumar, Avanti},
  booktitle = {International Conference on Machine Learning},
  year      = {2020}
}"""
SETS = {
    "lac": """@article{sadinle2019lac,
  title   = {Least Ambiguous Set-Valued Classifiers With Bounded Error Levels},
  author  = {Sadinle, Mauricio and Lei, Jing and Wasserman, Larry},
  journal = {Journal of the American Statistical Association},
  volume  = {114},
  number  = {525},
  pages   = {223--234},
  year    = {2019}
}""",
    "aps": """@inproceedings{romano2020aps,
  title     = {Classification with Valid and Adaptive Coverage},
  author    = {Romano, Yaniv and Sesia, Matteo and Candes, Emmanuel J.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    "raps": """@inproceedings{angelopoulos2021raps,
  title     = {Uncertainty Sets for Image Classifiers using Conformal Prediction},
  author    = {Angelopoulos, Anastasios N. and Bates, Stephen and Malik, Jitendra and Jordan, Michael I.},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}""",
}
MAHALANOBIS = """@inproceedings{lee2018mahalanobis,
  title     = {A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks},
  author    = {Lee, Kimin and Lee, Kibok and Lee, Honglak and Shin, Jinwoo},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018}
}"""
DETECTORS = {
    "max_softmax": """@inproceedings{hendrycks2017baseline,
  title     = {A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks},
  author    = {Hendrycks, Dan and Gimpel, Kevin},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}""",
    "max_logit": """@inproceedings{hendrycks2022scaling,
  title     = {Scaling Out-of-Distribution Detection for Real-World Settings},
  author    = {Hendrycks, Dan and others},
  booktitle = {International Conference on Machine Learning},
  year      = {2022}
}""",
    "energy": """@inproceedings{liu2020energy,
  title     = {Energy-based Out-of-distribution Detection},
  author    = {Liu, Weitang and Wang, Xiaoyun and Owens, John D. and Li, Yixuan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    "mahalanobis": MAHALANOBIS,
    "early_mahalanobis": MAHALANOBIS,
    "nearest_neighbours": """@inproceedings{sun2022knn,
  title     = {Out-of-Distribution Detection with Deep Nearest Neighbors},
  author    = {Sun, Yiyou and Ming, Yifei and Zhu, Xiaojin and Li, Yixuan},
  booktitle = {International Conference on Machine Learning},
  year      = {2022}
}""",
    "vim": """@inproceedings{wang2022vim,
  title     = {ViM: Out-of-Distribution with Virtual-logit Matching},
  author    = {Wang, Haoqi and Li, Zhizhong and Feng, Litong and Zhang, Wayne},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
}


def trust_citations(trust: Mapping[str, Any]) -> list[str]:
    """The papers behind what a model's ``config.trust`` holds; none where nothing was fitted."""
    found = [TEMPERATURE] if "temperature" in trust else []
    if trust.get("temperature", {}).get("kind") == "bias_corrected":
        found.append(BIAS)
    if "conformal" in trust:
        found.append(SETS[trust["conformal"]["method"]])
    if "bands" in trust:
        found.append(BANDS)
    if "ood" in trust:
        found.append(DETECTORS[trust["ood"]["detector"]])
    return found
