from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import ROOT, TinyNet, batches, equal, iteration, train
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.model.modes import recalibrate, to_device, untracked_statistics
from sga_monai.training.statistics import BatchNormStatistics, share_statistics


def images(n: int, size: int = 12, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.random((1, size, size), dtype=np.float32) * (i % 2 + 1) / 2, "label": i % 2} for i in range(n)]


def test_statistics_equal_an_independent_estimate():
    torch.manual_seed(0)
    network, data = TinyNet(dropout=0.5), images(64)
    handler = BatchNormStatistics(network, data, batch_size=16, seed=3)
    assert len(handler.chosen) == 64
    before = copy.deepcopy(network.state_dict())
    handler(None)
    stacked = torch.stack([torch.as_tensor(data[i]["image"]) for i in handler.chosen])
    with torch.no_grad():
        seen = [network.conv(part) for part in stacked.split(16)]
    mean = torch.stack([part.mean((0, 2, 3)) for part in seen]).mean(0)
    variance = torch.stack([part.var((0, 2, 3), unbiased=True) for part in seen]).mean(0)
    torch.testing.assert_close(network.norm.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.norm.running_var, variance, rtol=1e-5, atol=1e-6)
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if "running" not in key and "tracked" not in key)
    assert network.norm.momentum == 0.1


def test_statistics_of_several_processes_become_their_mean(monkeypatch):
    """Three processes, of which the two others have the values 1 and 2 more."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(2), nn.GroupNorm(1, 4))
    for i, buffer in enumerate(network.buffers()):
        buffer.copy_(torch.arange(buffer.numel()).view_as(buffer) + 10 * i)
    before = copy.deepcopy(network.state_dict())
    share_statistics(network)
    assert equal(network.state_dict(), before)
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.mul_(3).add_(3))
    share_statistics(network)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name] + ("running" in name))
    share_statistics(nn.Conv2d(1, 1, 1))


def test_modes_and_random_state_are_left_alone():
    network = TinyNet()
    network.conv.eval()
    modes, state = [module.training for module in network.modules()], torch.get_rng_state()
    recalibrate(network, [torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))])
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_the_images_are_an_eighth_within_limits_and_whole_batches():
    def chosen(n: int, batch_size: int = 64) -> int:
        return len(BatchNormStatistics(TinyNet(), range(n), batch_size=batch_size).chosen)

    assert [chosen(n) for n in (40, 300, 4096, 100_000)] == [40, 256, 512, 2048]
    assert chosen(3654, 16) == 448
    assert chosen(96, 4) == 96
    # A batch that is larger than an eighth is one batch, not none.
    assert [chosen(1500, size) for size in (257, 512, 1024, 2000)] == [257, 512, 1024, 1500]
    one, same, other = (BatchNormStatistics(TinyNet(), range(1000), seed=seed).chosen for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="this machine has no CUDA device"):
        to_device(TinyNet(), "cuda")
    for nonsense in ("gpu", "cpu,cuda", None):
        with pytest.raises(InputError, match="device must be one of torch, as cpu, cuda or cuda:1, got"):
            to_device(TinyNet(), nonsense)
    for name in ("train", "evaluate", "inference"):
        text = (ROOT / f"bundles/sga/{name}.json").read_text()
        assert "sga_monai.model.to_device" in text
        assert "to(@device)" not in text


def test_no_batch_at_all_is_refused():
    network = TinyNet()
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate(network, [])


def test_running_and_networks_without_batchnorm_do_nothing():
    for network, choice in ((TinyNet(), "running"), (TinyNet(batch_norm=False), "recalibrated")):
        assert not BatchNormStatistics(network, images(8), choice).active
    with pytest.raises(InputError, match="batch_norm must be one of recalibrated, running, got 'off'"):
        BatchNormStatistics(TinyNet(), images(8), "off")


def test_stale_statistics_are_what_is_mended():
    # Weights that move fast leave an exponential average behind; the score of a balanced set shows it.
    torch.manual_seed(0)
    network, data = TinyNet(dropout=0), images(64)
    stacked = torch.stack([torch.as_tensor(item["image"]) for item in data])
    for _ in range(2):
        network.train()(stacked)
    with torch.no_grad():
        network.conv.bias += 3
    network.eval()
    BatchNormStatistics(network, data, batch_size=64)(None)
    with torch.no_grad():
        normalized = network.norm(network.conv(stacked))
    torch.testing.assert_close(normalized.mean((0, 2, 3)), network.norm.bias, rtol=0, atol=1e-4)


@pytest.mark.parametrize("choice", ["both", "clean"])
def test_adversarial_statistics(choice):
    torch.manual_seed(0)
    network, data = TinyNet(dropout=0), batches(1)
    clean = copy.deepcopy(network)
    train(network, iteration(adversarial_statistics=choice, epsilon_range=(0.5, 0.5)), data, epochs=1)
    clean.train()(data[0]["image"])
    assert equal(network.norm.running_mean, clean.norm.running_mean) == (choice == "clean")
    assert int(network.norm.num_batches_tracked) == (1 if choice == "clean" else 2)
    assert network.norm.track_running_stats


def test_untracked_statistics_normalize_by_the_batch():
    network, image = TinyNet(dropout=0).train(), batches(1)[0]["image"]
    with untracked_statistics(network):
        untracked = network(image)
    assert int(network.norm.num_batches_tracked) == 0
    torch.testing.assert_close(untracked, network(image))


def test_memory_format_is_the_same_function():
    torch.manual_seed(0)
    network, image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(2)), torch.rand(2, 3, 8, 8)
    expected = network(image)
    moved = to_device(copy.deepcopy(network), "cpu", "channels_last")
    assert moved[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(image), expected)
    with pytest.raises(InputError, match="memory_format must be one of contiguous_format, channels_last"):
        to_device(network, "cpu", "NHWC")
