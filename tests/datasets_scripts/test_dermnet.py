from __future__ import annotations

import shutil

import pytest

from datasets_scripts.command import UserError
from datasets_scripts.sources import dermnet


def test_acne_of_both_folders_is_taken_and_the_rest_counted(acne):
    read = dermnet.read(str(acne))
    assert len(read.rows) == 14
    assert read.warnings == ["1 images of other DermNet classes were left out."]
    assert {(row.label, row.source, row.license) for row in read.rows} == {("acne", "DermNet", "unknown")}
    ids = [row.image_id for row in read.rows]
    assert len(set(ids)) == 14
    assert {"acne-000", "train_acne-009", "test_acne-009", "acne-012"} <= set(ids)
    assert [row.lesion_id for row in read.rows] == ids == sorted(ids)
    assert {row.age for row in read.rows} == {None}
    assert {row.read_mask for row in read.rows} == {None}


def test_zipped(acne, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "dermnet"), "zip", acne)
    expected = [(row.image_id, row.read()) for row in dermnet.read(str(acne)).rows]
    assert [(row.image_id, row.read()) for row in dermnet.read(packed).rows] == expected


def test_missing_empty_or_without_acne(acne, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        dermnet.read(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        dermnet.read(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no image in a folder 'Acne and Rosacea Photos'"):
        dermnet.read(str(acne / "train" / "Eczema Photos"))
