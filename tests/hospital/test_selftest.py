"""The self-test finds what changes images or logits, and nothing else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pydicom
import pytest
import torch
from pydicom import uid

from sga_monai.core.errors import InputError, ReadError
from sga_monai.hospital import selftest
from sga_monai.hospital.selftest import EXPECTED, FILES, refuse_failures, run_selftest, write_selftest
from sga_monai.imaging import codec
from sga_monai.imaging.read import read_cxr
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import Preparation

PREPARATION = Preparation(32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("resnet18").eval()


@pytest.fixture(scope="module")
def bundle(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    write_selftest(folder, network, PREPARATION)
    return folder


def test_files_are_of_eight_syntaxes_and_read_as_chests(bundle):
    read = [pydicom.dcmread(bundle / f"selftest/{i}.dcm") for i in range(8)]
    assert {dataset.file_meta.TransferSyntaxUID for dataset in read} == {syntax for syntax, _, _ in FILES}
    assert len({dataset.SOPInstanceUID for dataset in read}) == 8
    plain = [read_cxr(bundle / f"selftest/{i}.dcm") for i in range(8)]
    # Bone is bright and air is dark in each, whatever way it is stored.
    for image in plain:
        rows, columns = image.shape
        spine = image[rows // 3 : rows // 2, columns // 2 - 4 : columns // 2 + 4].mean()
        assert spine > image[:, : columns // 12].mean()
    assert all(f"selftest-{i}" == dataset.PatientID for i, dataset in enumerate(read))


def test_the_same_model_passes(bundle, network):
    found = run_selftest(bundle, network, PREPARATION)
    assert len(found) == 8
    assert all(comparison.passed for comparison in found)
    refuse_failures(found)


def test_writing_again_gives_the_same_bytes(bundle, network, tmp_path):
    write_selftest(tmp_path / "again", network, PREPARATION)
    for path in (bundle / "selftest").iterdir():
        assert path.read_bytes() == (tmp_path / "again/selftest" / path.name).read_bytes()


def test_a_flipped_weight_is_found(bundle, network):
    changed = build_network("resnet18").eval()
    changed.load_state_dict(network.state_dict())
    with torch.no_grad():
        changed.fc.weight[1, int(changed.fc.weight[1].abs().argmax())] *= -1
    found = run_selftest(bundle, changed, PREPARATION)
    assert all(comparison.image for comparison in found)
    with pytest.raises(InputError, match="the logits are not: compare the versions of torch and monai"):
        refuse_failures(found)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit])
def test_another_decoder_is_found(bundle, network, monkeypatch, syntax):
    right = codec.DECODERS[syntax]

    def wrong(stream, **options):
        # As a decoder that takes two's complement for what is not, or an 8-bit one.
        return np.asarray(right(stream, **options)) // 2

    monkeypatch.setitem(codec.DECODERS, syntax, wrong)
    failed = [comparison for comparison in run_selftest(bundle, network, PREPARATION) if not comparison.passed]
    assert [comparison.syntax for comparison in failed] == [uid.UID(syntax).name]
    with pytest.raises(InputError, match="self-test: 1 of 8 files differ"):
        refuse_failures(failed + [selftest.Comparison("x", True, 0.0)] * 7)


def test_a_decoder_that_is_absent_is_found(bundle, network, monkeypatch):
    def absent(*_arguments):
        raise ReadError("unknown_syntax")

    monkeypatch.setitem(codec.DECODERS, uid.JPEGLSLossless, absent)
    (failed,) = [comparison for comparison in run_selftest(bundle, network, PREPARATION) if not comparison.passed]
    assert failed.difference == np.inf
    with pytest.raises(InputError, match="decoded otherwise \\(JPEG-LS"):
        refuse_failures([failed])


def test_a_bundle_without_one_says_so(bundle, network, tmp_path):
    with pytest.raises(InputError, match="has no self-test"):
        run_selftest(tmp_path, network, PREPARATION)
    shutil.copytree(bundle, tmp_path / "copy")
    lines = json.loads((tmp_path / "copy" / EXPECTED).read_text())
    lines[0]["logits"][0] += 0.01
    (tmp_path / "copy" / EXPECTED).write_text(json.dumps(lines))
    assert [comparison.passed for comparison in run_selftest(tmp_path / "copy", network, PREPARATION)] == [False] + [True] * 7


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", '[{"file": "0.dcm"}]', "[" * 200_000])
def test_what_is_no_selftest_is_refused(network, tmp_path, content):
    (tmp_path / "selftest").mkdir()
    (tmp_path / EXPECTED).write_text(content)
    with pytest.raises(InputError, match="has no self-test that can be read"):
        run_selftest(tmp_path, network, PREPARATION)
