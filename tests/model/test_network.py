from __future__ import annotations

import hashlib

import pytest
import torch
import torch.nn.functional as F

from sga_monai.model.network import CXRResNet18


def torchvision_keys() -> set[str]:
    """The parameter names of torchvision's ResNet-18."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{n}" for n in norm}
    for layer in range(1, 5):
        for block in range(2):
            for k in (1, 2):
                keys |= {f"layer{layer}.{block}.conv{k}.weight"} | {f"layer{layer}.{block}.bn{k}.{n}" for n in norm}
        if layer > 1:
            keys |= {f"layer{layer}.0.downsample.0.weight"} | {f"layer{layer}.0.downsample.1.{n}" for n in norm}
    return keys


def test_state_dict_is_torchvisions():
    network = CXRResNet18(num_classes=1000)
    assert set(network.state_dict()) == torchvision_keys()
    assert len(network.state_dict()) == 122
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert network.conv1.stride == (2, 2)


def test_forward_standardizes_and_repeats_the_channel():
    network = CXRResNet18().eval()
    image = torch.rand(2, 1, 64, 64)
    mean, sd = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (image.repeat(1, 3, 1, 1) - mean) / sd
    x = F.max_pool2d(F.relu(network.bn1(F.conv2d(x, network.conv1.weight, stride=2, padding=3))), 3, 2, 1)
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in layer:
            shortcut = x if block.downsample is None else block.downsample(x)
            x = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + shortcut)
    expected = F.linear(x.mean((2, 3)), network.fc.weight, network.fc.bias)
    torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


def test_pretrained_weights_replace_all_but_fc(tmp_path):
    source = CXRResNet18(num_classes=1000)
    with torch.no_grad():
        for value in source.state_dict().values():
            value += 0.25 if value.is_floating_point() else 3
    path = tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = CXRResNet18(2, str(path), sha256=digest[:8])
    for key, value in network.state_dict().items():
        assert key.startswith("fc.") or torch.equal(value, source.state_dict()[key])
    with pytest.raises(ValueError, match="SHA-256"):
        CXRResNet18(2, str(path))
    with pytest.raises(ValueError, match="no such file"):
        CXRResNet18(2, str(tmp_path / "none.pth"))
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not the parameters of resnet18-f37072fd"):
        CXRResNet18(2, str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
