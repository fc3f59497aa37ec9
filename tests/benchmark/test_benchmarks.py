"""Each benchmark runs at toy size; times are never asserted."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
from conftest import ROOT
from fixtures import warm
from torch import nn
from typer.testing import CliRunner

from sga_monai.benchmark import Case, Machine, compare, count_flops, peak_memory, time_reading
from sga_monai.benchmark.data import benchmark_data
from sga_monai.benchmark.engine import benchmark_engine
from sga_monai.benchmark.evaluate import benchmark_evaluate
from sga_monai.benchmark.explain import DIFFERENCE_AT_MOST, benchmark_explain
from sga_monai.benchmark.measure import Line
from sga_monai.benchmark.peers import authors_fullgrad
from sga_monai.benchmark.step import METHODS, benchmark_step
from sga_monai.cli.benchmark import app
from sga_monai.core.errors import InputError
from sga_monai.interpret.saliency import fullgrad_map
from sga_monai.model.modes import recalibrate
from sga_monai.model.networks import build_network

TOY = Machine(image_size=32, batch_size=2, rounds=1)


def test_peak_memory_counts_what_is_there_at_a_time():
    given = torch.ones(1000)

    def run() -> None:
        first = given + 1
        second = first * 2
        del first
        (second - 1).sum()

    assert peak_memory(run) == 2 * 4000 + 4
    assert peak_memory(lambda: given.add_(1)) == 0


def test_flops_of_a_convolution():
    layer, image = nn.Conv2d(3, 8, 3, padding=1), torch.rand(2, 3, 10, 10)
    assert count_flops(lambda: layer(image)) == 2 * 2 * 8 * 3 * 9 * 100


def test_rounds_are_interleaved_and_the_first_is_not_counted():
    order: list[str] = []
    cases = [Case(name, lambda name=name: order.append(name), "a", units=2) for name in ("a", "b")]
    lines = compare("toy", cases, Machine(rounds=3))
    assert order == ["a", "b"] * 4
    assert [line.name for line in lines] == ["a", "b"]
    assert lines[0].ratio == 1


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [({"at_most": 2.0}, 1.9, True), ({"at_most": 2.0}, 2.1, False), ({"at_least": 3.0}, 3.1, True), ({}, 9.0, None)],
)
def test_goals(goal, ratio, met):
    assert Line("toy", "a", 1, 1, 1, "b", ratio, ratio, ratio, **goal).met is met


@pytest.mark.slow
def test_step():
    result = benchmark_step(TOY)
    names = [line.name for line in result.lines]
    assert names[: len(METHODS)] == list(METHODS)
    assert all(line.peak_memory > 0 for line in result.lines[: len(METHODS)])
    # What the network costs in its own passes: SGA 10 forward passes' worth over the 3 of natural training, at any size.
    flops = {fact.name.removesuffix(", FLOPs over NT's"): fact.value for fact in result.facts}
    assert flops["AT"] == pytest.approx(8 / 3, abs=0.1)
    assert flops["SGA"] == pytest.approx(10 / 3, abs=0.1)
    assert flops["SGA, gradient_reuse"] == flops["AT"]
    if "naive SGA" not in names:
        assert any("sga_monai[bench]" in note for note in result.notes)


def test_engine_and_explain():
    assert [fact.unit for fact in benchmark_engine(TOY).facts] == ["ms"]
    (apart,) = benchmark_explain(TOY).facts
    assert apart.value < DIFFERENCE_AT_MOST


def test_the_authors_fullgrad_leaves_the_network_as_it_was():
    network, image = build_network("resnet18"), torch.rand(2, 1, 32, 32)
    recalibrate(network, [image])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ours = fullgrad_map(network, image)
    torch.testing.assert_close(ours, authors_fullgrad(network, image), rtol=1e-4, atol=1e-4 * float(ours.max()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))


def test_data_and_evaluate(monkeypatch):
    for module in ("data", "evaluate"):
        monkeypatch.setattr(f"sga_monai.benchmark.{module}.write_dicom_files", small_files)
    result = benchmark_data(TOY, n_images=1, n_small=4)
    names = [line.name for line in result.lines]
    assert {"raw: sga_monai", "raw: codec alone", "JPEG 2000: sga_monai", "raw: MONAI default chain", "warm: CacheDataset"} <= set(names)
    assert len(result.facts) == 4
    result = benchmark_evaluate(TOY, n_images=2)
    assert [line.name for line in result.lines] == [
        "scores: sga_monai",
        "scores: stock MONAI",
        "with maps: sga_monai",
        "with maps: stock MONAI",
    ]


def small_files(folder, syntax, n_images):
    from sga_monai.benchmark.files import write_dicom_files

    return write_dicom_files(folder, syntax, n_images, shape=(320, 256))


def test_the_command_writes_a_record(tmp_path):
    path = tmp_path / "bench.json"
    size = "--image-size 32 --batch-size 2 --rounds 1".split()
    result = warm.run(
        [sys.executable, "-m", "sga_monai", "benchmark", "engine", *size, "--json", str(path)], ROOT, os.environ | {"COLUMNS": "120"}
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(path.read_text())
    assert record["machine"]["clock"] == "CPU time of the process"
    assert record["lines"][1]["against"] == "plain loop"
    assert "beyond the passes" in result.stdout


def test_a_record_replaces_a_record_alone_which_is_known_before_anything_is_measured(tmp_path, monkeypatch):
    record = {"machine": dict.fromkeys(("gpu", "processor", "threads", "clock", "image_size", "batch_size"), 1)}
    record |= {"lines": [], "facts": [], "notes": []}
    runs = []
    monkeypatch.setattr("sga_monai.benchmark.suite.run_benchmarks", lambda *_: runs.append(1) or record)
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "earlier.json").write_text(json.dumps(record))
    for path, message in (("model.pt", "--json would replace a file that is no record of a benchmark"), (".", "--json is a folder")):
        refused = CliRunner().invoke(app, ["engine", "--json", str(tmp_path / path)])
        assert message in str(refused.exception)
    assert not runs
    for path in ("earlier.json", "new.json"):
        assert CliRunner().invoke(app, ["engine", "--json", str(tmp_path / path)]).exit_code == 0
    assert len(runs) == 2


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(InputError, match="the folder does not exist"):
        time_reading(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no readable image in this folder"):
        time_reading(tmp_path)
    with pytest.raises(InputError, match="image_size"):
        Machine(image_size=8)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            Machine(device="cuda")
