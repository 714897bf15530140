"""Every archive of ``archives.yaml`` from a tiny copy in its real layout, and downloads that are not whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets_scripts import build_archive
from datasets_scripts.command import UserError, run
from datasets_scripts.rows import Row
from datasets_scripts.sources import archive
from datasets_scripts.sources.archive_tables import entries
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import CLASSES, TASKS, UnknownLabelError, in_task

ISIC_2018, MILK = "MEL,NV,BCC,AKIEC,BKL,DF,VASC", "AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC"

# Archive -> its files (text of a table, or None for an image), and the rows: image id -> what differs from a Row that
# knows nothing, `split` too.
LAYOUTS: dict[str, tuple[dict[str, str | None], dict[str, dict[str, Any]]]] = {
    "pad_ufes_20": (
        {
            "imgs_part_1/PAT_46_881_939.png": None,
            "imgs_part_2/PAT_1516_1765_530.png": None,
            "metadata.csv": "patient_id,lesion_id,age,gender,fitspatrick,region,diagnostic,img_id,biopsed\n"
            "PAT_1516,1765,8,,,ARM,NEV,PAT_1516_1765_530.png,False\n"
            "PAT_46,881,55,FEMALE,3.0,NECK,BCC,PAT_46_881_939.png,True\n",
        },
        {
            "PAT_1516_1765_530": {
                "label": "nv", "lesion_id": "PAT_1516_1765", "patient_id": "PAT_1516", "age": 8.0,
                "localization": "arm", "dx_type": "clinical consensus", "diagnosis": "NEV",
            },
            "PAT_46_881_939": {
                "label": "bcc", "lesion_id": "PAT_46_881", "patient_id": "PAT_46", "age": 55.0,
                "sex": "female", "localization": "neck", "dx_type": "biopsy", "diagnosis": "BCC",
                "skin_tone": "Fitzpatrick 3",
            },
        },
    ),
    "isic_2018": (
        {
            "ISIC2018_Task3_Training_Input/ISIC_0024306.jpg": None,
            "ISIC2018_Task3_Training_Input/ISIC_0024307.jpg": None,
            "ISIC2018_Task3_Validation_Input/ISIC_0034321.jpg": None,
            "ISIC2018_Task3_Test_Input/ISIC_0034524.jpg": None,
            "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv": f"image,{ISIC_2018}\n"
            "ISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nISIC_0024307,0.0,0.0,0.0,1.0,0.0,0.0,0.0\n",
            "ISIC2018_Task3_Validation_GroundTruth/ISIC2018_Task3_Validation_GroundTruth.csv": f"image,{ISIC_2018}\n"
            "ISIC_0034321,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n",
            "ISIC2018_Task3_Test_GroundTruth/ISIC2018_Task3_Test_GroundTruth.csv": f"image,{ISIC_2018}\n"
            "ISIC_0034524,0.0,0.0,0.0,0.0,0.0,0.0,1.0\n",
            "ISIC2018_Task3_Training_LesionGroupings.csv": "image,lesion_id,diagnosis_confirm_type\n"
            "ISIC_0024306,HAM_0000550,follow up\nISIC_0024307,HAM_0003577,histopathology\n",
        },
        {
            "ISIC_0024306": {
                "label": "nv", "lesion_id": "HAM_0000550", "dx_type": "follow up", "diagnosis": "NV", "split": "train",
            },
            "ISIC_0024307": {
                "label": "akiec", "lesion_id": "HAM_0003577", "dx_type": "histopathology", "diagnosis": "AKIEC",
                "split": "train",
            },
            "ISIC_0034321": {"label": "mel", "diagnosis": "MEL", "split": "validation"},
            "ISIC_0034524": {"label": "vasc", "diagnosis": "VASC", "split": "test"},
        },
    ),
    "isic_2019": (
        {
            "ISIC_2019_Training_Input/ISIC_0000000.jpg": None,
            "ISIC_2019_Training_Input/ISIC_0000001_downsampled.jpg": None,
            "ISIC_2019_Test_Input/ISIC_0034321.jpg": None,
            "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
            "ISIC_0000000,0,1,0,0,0,0,0,0,0\nISIC_0000001_downsampled,0,0,0,0,0,0,0,1,0\n",
            "ISIC_2019_Test_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
            "ISIC_0034321,0,0,0,0,0,0,0,0,1\n",
            "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,sex\n"
            "ISIC_0000000,55.0,anterior torso,,female\nISIC_0000001_downsampled,30,,BCN_0003884,male\n",
        },
        {
            "ISIC_0000000": {
                "label": "nv", "age": 55.0, "sex": "female", "localization": "anterior torso", "diagnosis": "NV",
            },
            "ISIC_0000001_downsampled": {
                "label": "scc", "age": 30.0, "sex": "male", "lesion_id": "BCN_0003884", "source": "BCN20000",
                "diagnosis": "SCC",
            },
        },
    ),
    "isic_2020": (
        {
            "train/ISIC_2637011.jpg": None,
            "train/ISIC_0015719.jpg": None,
            "train/ISIC_0052212.jpg": None,
            "ISIC_2020_Training_GroundTruth.csv": "image_name,patient_id,target\nISIC_2637011,IP_0,0\n",
            "ISIC_2020_Training_GroundTruth_v2.csv": "image_name,patient_id,lesion_id,sex,age_approx,"
            "anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
            "ISIC_2637011,IP_7279968,IL_1,male,45.0,head/neck,unknown,benign,0\n"
            "ISIC_0015719,IP_3075186,IL_2,female,45.0,upper extremity,melanoma,malignant,1\n"
            "ISIC_0052212,IP_3075186,IL_3,female,45.0,,melanoma,malignant,1\n",
            "ISIC_2020_Training_Duplicates.csv": "image_name_1,image_name_2\nISIC_0015719,ISIC_0052212\n",
        },
        {
            "ISIC_0015719": {
                "label": "malignant", "lesion_id": "IL_2", "patient_id": "IP_3075186", "age": 45.0, "sex": "female",
                "localization": "upper extremity", "diagnosis": "melanoma",
            },
            "ISIC_0052212": {
                "label": "malignant", "lesion_id": "IL_2", "patient_id": "IP_3075186", "age": 45.0, "sex": "female",
                "diagnosis": "melanoma",
            },
            "ISIC_2637011": {
                "label": "benign", "lesion_id": "IL_1", "patient_id": "IP_7279968", "age": 45.0, "sex": "male",
                "localization": "head/neck", "diagnosis": "benign",
            },
        },
    ),
    "isic_2024": (
        {
            "train-image.hdf5": "ISIC_0015670 ISIC_0015845",
            "train-metadata.csv": "isic_id,target,patient_id,age_approx,sex,anatom_site_general,lesion_id,iddx_full,"
            "iddx_1,attribution,copyright_license\n"
            "ISIC_0015670,0,IP_1235828,60.0,male,lower extremity,,Benign,Benign,Memorial,CC-BY\n"
            "ISIC_0015845,1,IP_8170065,60.0,male,head/neck,IL_6727506,Malignant::BCC,Malignant,Memorial,CC-BY-NC\n",
        },
        {
            "ISIC_0015670": {
                "label": "benign", "patient_id": "IP_1235828", "age": 60.0, "sex": "male", "diagnosis": "Benign",
                "localization": "lower extremity", "attribution": "Memorial", "license": "cc-by-4.0",
            },
            "ISIC_0015845": {
                "label": "malignant", "patient_id": "IP_8170065", "lesion_id": "IL_6727506", "age": 60.0, "sex": "male",
                "diagnosis": "Malignant::BCC", "localization": "head/neck", "attribution": "Memorial",
            },
        },
    ),
    "derm7pt": (
        {
            "release_v0/images/NEL/Nel026.jpg": None,
            "release_v0/images/NEL/NEL027.jpg": None,
            "release_v0/images/Aal/Aal002.jpg": None,
            "release_v0/images/Aal/Aal003.jpg": None,
            "release_v0/meta/meta.csv": "case_num,diagnosis,seven_point_score,location,sex,clinic,derm\n"
            "1,melanoma (in situ),1,back,female,NEL/NEL026.jpg,NEL/NEL027.jpg\n"
            "2,lentigo,0,head neck,male,Aal/Aal002.jpg,Aal/Aal003.jpg\n",
            "release_v0/meta/train_indexes.csv": "indexes\n0\n",
            "release_v0/meta/valid_indexes.csv": "indexes\n",
            "release_v0/meta/test_indexes.csv": "indexes\n1\n",
        },
        {
            "NEL027": {
                "label": "mel", "lesion_id": "1", "sex": "female", "localization": "back",
                "diagnosis": "melanoma (in situ)", "image_type": "dermoscopic",
            },
            "Nel026": {
                "label": "mel", "lesion_id": "1", "sex": "female", "localization": "back",
                "diagnosis": "melanoma (in situ)", "image_type": "clinical",
            },
        },
    ),
    "fitzpatrick17k": (
        {
            "images/5e82a45bc5d78bd24ae9202d194423f8.jpg": None,
            "images/d2bac3c9e4499032ca8e9b07c7d3bc40.jpg": None,
            "fitzpatrick17k.csv": "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,"
            "three_partition_label,qc,url,url_alphanum\n"
            "5e82a45bc5d78bd24ae9202d194423f8,-1,3,drug induced pigmentary changes,inflammatory,non-neoplastic,,"
            "http://a/1.jpg,a\n"
            "d2bac3c9e4499032ca8e9b07c7d3bc40,-1,-1,dermatofibroma,benign dermal,benign,,http://a/2.jpg,b\n"
            "0a94359e7eaacd7178e06b2823777789,1,1,melanoma,malignant melanoma,malignant,,http://a/3.jpg,c\n",
        },
        {
            "5e82a45bc5d78bd24ae9202d194423f8": {
                "label": "inflammatory", "skin_tone": "Fitzpatrick 3", "diagnosis": "drug induced pigmentary changes",
            },
            "d2bac3c9e4499032ca8e9b07c7d3bc40": {"label": "df", "diagnosis": "dermatofibroma"},
        },
    ),
    "ddi": (
        {
            "000001.png": None,
            "000002.png": None,
            "ddi_metadata.csv": ",DDI_ID,DDI_file,skin_tone,malignant,disease\n"
            "0,1,000001.png,56,True,melanoma-in-situ\n1,2,000002.png,12,False,mycosis-fungoides\n",
        },
        {
            "000001": {"label": "malignant", "skin_tone": "Fitzpatrick 5-6", "diagnosis": "melanoma-in-situ"},
            "000002": {"label": "benign", "skin_tone": "Fitzpatrick 1-2", "diagnosis": "mycosis-fungoides"},
        },
    ),
    "ph2": (
        {
            "PH2 Dataset images/IMD003/IMD003_Dermoscopic_Image/IMD003.bmp": None,
            "PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp": None,
            "PH2 Dataset images/IMD003/IMD003_roi/IMD003_R1_Label1.bmp": None,
            "PH2 Dataset images/IMD061/IMD061_Dermoscopic_Image/IMD061.bmp": None,
            "PH2_dataset.txt": "||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | Streaks || "
            "Colors ||\n"
            "|| IMD003 ||                        ||                  0 ||         0 |  A || 4 ||\n"
            "|| IMD061 ||               Melanoma ||                  2 ||         2 |  P ||   ||\n\n"
            "Legends:\nClinical Diagnosis: 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma\n",
        },
        {
            "IMD003": {"label": "nv", "diagnosis": "common nevus", "mask": True},
            "IMD061": {"label": "mel", "diagnosis": "melanoma", "dx_type": "melanoma"},
        },
    ),
    "milk10k": (
        {
            "MILK10k_Training_Input/IL_0000652/ISIC_8149219.jpg": None,
            "MILK10k_Training_Input/IL_0000652/ISIC_4671410.jpg": None,
            "MILK10k_Training_GroundTruth.csv": f"lesion_id,{MILK}\nIL_0000652,0.0,1.0,0,0,0,0,0,0,0,0,0\n",
            "MILK10k_Training_Metadata.csv": "lesion_id,image_type,isic_id,attribution,copyright_license,"
            "image_manipulation,age_approx,sex,skin_tone_class,site,MONET_hair\n"
            "IL_0000652,clinical: close-up,ISIC_8149219,MILK study team,CC-BY-NC,,50,male,3,head_neck_face,0.1\n"
            "IL_0000652,dermoscopic,ISIC_4671410,MILK study team,CC-BY-NC,,50,male,3,head_neck_face,0.2\n",
        },
        {
            image_id: {
                "label": "bcc", "lesion_id": "IL_0000652", "age": 50.0, "sex": "male", "localization": "head_neck_face",
                "skin_tone": "MILK10k 3", "image_type": kind, "attribution": "MILK study team", "diagnosis": "BCC",
            }
            for image_id, kind in (("ISIC_4671410", "dermoscopic"), ("ISIC_8149219", "clinical: close-up"))
        },
    ),
    "isic_cli": (
        {
            "ISIC_0000000.jpg": None,
            "ISIC_0000001.jpg": None,
            "ISIC_0000002.jpg": None,
            "metadata.csv": "isic_id,attribution,copyright_license,age_approx,anatom_site_1,diagnosis_1,diagnosis_2,"
            "diagnosis_3,diagnosis_4,fitzpatrick_skin_type,image_type,lesion_id,patient_id,sex\n"
            "ISIC_0000000,Hospital,CC-0,55,Trunk,Benign,Benign melanocytic proliferations,Nevus,Blue nevus,II,"
            "dermoscopic,IL_1,IP_1,female\n"
            "ISIC_0000001,Hospital,CC-BY,,,Malignant,Malignant soft tissue proliferations - Vascular,Kaposi sarcoma,,,"
            "clinical: close-up,,,\n"
            "ISIC_0000002,Hospital,CC-BY,,,Malignant,,,,,dermoscopic,,,\n",
        },
        {
            "ISIC_0000000": {
                "label": "nv", "license": "cc0-1.0", "attribution": "Hospital", "age": 55.0, "sex": "female",
                "localization": "trunk", "lesion_id": "IL_1", "patient_id": "IP_1", "skin_tone": "Fitzpatrick 2",
                "image_type": "dermoscopic", "diagnosis": "Blue nevus",
            },
            "ISIC_0000001": {
                "label": "other_malignant", "license": "cc-by-4.0", "attribution": "Hospital",
                "image_type": "clinical: close-up", "diagnosis": "Kaposi sarcoma",
            },
        },
    ),
}  # fmt: skip


def tiny(seed: int = 0, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 60 + seed).save(buffer, format="PNG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, str | None]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".hdf5"):
            import h5py
            import numpy as np

            with h5py.File(path, "w") as file:
                for key in (text or "").split():
                    file[key] = np.void(tiny())
        elif text is None:
            path.write_bytes(tiny())
        else:
            path.write_text(text, encoding="utf-8")
    return folder


def facts(row: Row, split: str | None) -> dict[str, Any]:
    """What a row states, without what is as its entry says for every image."""
    entry = next(
        one for one in entries().values() if one.title.split(":")[0] == row.source or row.source in str(one.parts)
    )
    usual = Row(row.image_id, "", row.read, row.image_id, license=entry.license, attribution=entry.attribution)
    found = {key: value for key, value in vars(row).items() if value != getattr(usual, key) and key != "read_mask"}
    if found["source"] == entry.title.split(":")[0]:
        del found["source"]
    return {**found, **({"split": split} if split else {}), **({"mask": True} if row.read_mask else {})}


def test_every_archive_has_a_layout_here_and_known_classes() -> None:
    assert set(LAYOUTS) == set(entries())
    for entry in entries().values():
        assert all((entry.traps, entry.source, entry.where, entry.citation))
        for task in entry.labels:
            assert set(entry.classes(task)) <= set(CLASSES)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_archive_in_its_own_layout(name: str, tmp_path: Path) -> None:
    files, rows = LAYOUTS[name]
    found = archive.read(name, str(write(tmp_path, files)))
    splits = found.splits or [None] * len(found.rows)
    assert {row.image_id: facts(row, split) for row, split in zip(found.rows, splits, strict=True)} == rows
    assert [row.image_id for row in found.rows] == sorted(rows)
    assert all(row.read().startswith(b"\x89PNG") for row in found.rows)
    assert (found.splits is not None) == (name == "isic_2018")


def test_what_is_missing_is_listed_with_its_address(tmp_path: Path) -> None:
    found = archive.read("fitzpatrick17k", str(write(tmp_path, LAYOUTS["fitzpatrick17k"][0])))
    assert found.missing == ["0a94359e7eaacd7178e06b2823777789 http://a/3.jpg"]
    assert "1 of 3 images are missing, the first is 0a94359e7eaacd7178e06b2823777789." in found.warnings


@pytest.mark.parametrize(("name", "word"), [("derm7pt", "lentigo 1"), ("isic_cli", "Malignant 1")])
def test_images_without_an_equivalent_are_counted(name: str, word: str, tmp_path: Path) -> None:
    found = archive.read(name, str(write(tmp_path, LAYOUTS[name][0])))
    assert f"1 rows have no equivalent in task archive and were left out ({word})." in found.warnings


@pytest.mark.parametrize(
    ("task", "labels"),
    [("ham10000", {"nv", "bcc"}), ("isic_binary", {"benign", "malignant"}), ("isic2017", {"nv"})],
)
def test_a_task_of_the_suite(task: str, labels: set[str], tmp_path: Path) -> None:
    found = archive.read("pad_ufes_20", str(write(tmp_path, LAYOUTS["pad_ufes_20"][0])), task)
    assert {row.label for row in found.rows} == labels
    assert {row.diagnosis for row in found.rows} <= {"NEV", "BCC"}


def test_one_image_type_of_a_pair(tmp_path: Path) -> None:
    source = str(write(tmp_path, LAYOUTS["milk10k"][0]))
    assert [row.image_id for row in archive.read("milk10k", source, image_type="dermoscopic").rows] == ["ISIC_4671410"]
    assert [row.image_id for row in archive.read("milk10k", source, image_type="clinical").rows] == ["ISIC_8149219"]


def test_the_class_of_another_task() -> None:
    assert in_task("ak", "ham10000") == "akiec"
    assert in_task("sk", "isic2017_ham") == "bkl"
    assert in_task("bkl", "isic2017") is None
    assert in_task("akiec", "lesions12") is None
    assert in_task("other_malignant", "isic_binary") == "malignant"
    assert in_task("ak", "isic_binary") is None
    for task, labels in TASKS.items():
        assert [in_task(label, task) for label in labels] == list(labels)


def changed(name: str, path: str, old: str, new: str) -> dict[str, str | None]:
    files = dict(LAYOUTS[name][0])
    text = files[path] or ""
    assert old in text
    return {**files, path: text.replace(old, new)}


TRUTH, ROW = "ISIC_2019_Training_GroundTruth.csv", "0000000,0,1,0"
BAD: list[tuple[str, dict[str, str | None], type[UserError], list[str]]] = [
    (
        "pad_ufes_20",
        {key: text for key, text in LAYOUTS["pad_ufes_20"][0].items() if "imgs_part_1" not in key},
        MetadataError,
        ["1 of 2 ids have no image", "'PAT_46_881_939'", "--partial"],
    ),
    ("isic_2018", LAYOUTS["isic_2019"][0], UserError, [TRUTH, "--name isic_2019"]),
    ("isic_cli", LAYOUTS["pad_ufes_20"][0], MetadataError, ["no column isic_id", "--name pad_ufes_20"]),
    ("pad_ufes_20", LAYOUTS["isic_cli"][0], MetadataError, ["no column img_id", "--name isic_cli"]),
    ("ddi", {"a.jpg": None}, UserError, ["has no ddi_metadata.csv"]),
    ("isic_2019", changed("isic_2019", TRUTH, ROW, "0000000,1,1,0"), MetadataError, ["'ISIC_0000000'", "MEL and NV"]),
    ("isic_2019", changed("isic_2019", TRUTH, ROW, "0000000,0,0,0"), MetadataError, ["'ISIC_0000000'", "no class"]),
    ("isic_2019", changed("isic_2019", TRUTH, ROW, "0000000,0,x,0"), MetadataError, ["'x' for NV"]),
    ("isic_2019", changed("isic_2019", TRUTH, ",SCC,", ",XYZ,"), MetadataError, ["no column scc"]),
    (
        "pad_ufes_20",
        changed("pad_ufes_20", "metadata.csv", ",NEV,", ",NEVI,"),
        UnknownLabelError,
        ["1 names", "'NEVI' (1 row, nearest 'nev')", "archives.yaml"],
    ),
    ("derm7pt", changed("derm7pt", "release_v0/meta/test_indexes.csv", "1", "9"), MetadataError, ["row '9' of 2"]),
    ("isic_2024", {**LAYOUTS["isic_2024"][0], "train-image.hdf5": "ISIC_9"}, MetadataError, ["2 of 2 ids"]),
    ("milk10k", changed("milk10k", "MILK10k_Training_GroundTruth.csv", "652", "653"), MetadataError, ["no lesion_id"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files", "error", "parts"), BAD, ids=range(len(BAD)))
def test_a_wrong_download_is_one_line(
    name: str, files: dict[str, str | None], error: type[UserError], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        archive.read(name, str(write(tmp_path, files)))
    text = str(raised.value)
    assert len(text.splitlines()) == 1
    assert [part for part in parts if part not in text] == []


def test_images_without_labels_are_counted(tmp_path: Path) -> None:
    found = archive.read("ddi", str(write(tmp_path, {**LAYOUTS["ddi"][0], "000003.png": None})))
    assert "1 images without a row in the tables were left out." in found.warnings
    assert len(found.rows) == 2


def test_a_damaged_hdf5_file(tmp_path: Path) -> None:
    write(tmp_path, LAYOUTS["isic_2024"][0])
    (tmp_path / "train-image.hdf5").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"train-image\.hdf5 cannot be read .*download it again"):
        archive.read("isic_2024", str(tmp_path))


@pytest.fixture
def ddi(tmp_path: Path) -> Path:
    folder = tmp_path / "ddi"
    folder.mkdir()
    lines = [",DDI_ID,DDI_file,skin_tone,malignant,disease"]
    for number in range(40):
        (folder / f"{number:06}.png").write_bytes(tiny(number, 16))
        lines.append(f"{number},{number},{number:06}.png,{(12, 34, 56)[number % 3]},{number % 2 == 1},melanoma")
    lines.append("40,40,000040.png,12,False,melanoma")
    (folder / "ddi_metadata.csv").write_text("\n".join(lines))
    return folder


def test_the_command(ddi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        run(lambda: build_archive.main(["--name", "ddi", "--source", str(ddi), "--out", str(out)]))
    assert stopped.value.code == 2
    assert "1 of 41 ids" in capsys.readouterr().err
    assert not out.exists()
    build_archive.main(["--name", "ddi", "--source", str(ddi), "--out", str(out), "--partial"])
    assert "40 images written" in capsys.readouterr().out
    assert (out / "missing.txt").read_text() == "000040\n"
    import datasets

    rows = datasets.load_dataset(str(out), "grouped", split="train")
    assert rows.features["label"].names == ["benign", "malignant"] or rows.features["label"].names == [
        "malignant",
        "benign",
    ]
    assert set(rows["skin_tone"]) == {"Fitzpatrick 1-2", "Fitzpatrick 3-4", "Fitzpatrick 5-6"}
    card = (out / "README.md").read_text()
    assert all(part in card for part in ("Known traps", "ddi_dataset.py", "skin_tone 0"))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--name", "pad_ufes"], "did you mean pad_ufes_20?"),
        (["--name", "ph2", "--task", "no_such"], "no labels for task 'no_such'"),
        (["--name", "isic_2020", "--task", "ham10000"], "it has: isic_binary"),
    ],
)
def test_a_wrong_option(words: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(lambda: build_archive.main([*words, "--source", str(tmp_path), "--out", str(tmp_path / "out")]))
    assert stopped.value.code == 2
    assert part in capsys.readouterr().err
