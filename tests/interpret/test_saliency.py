from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import LinearNet, TinyNet, randomized
from monai.data import MetaTensor
from torch import nn

from sga_monai.interpret import saliency
from sga_monai.model.network import CXRResNet18


def images(batch: int = 3, channels: int = 1, size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rescaled(term: torch.Tensor) -> torch.Tensor:
    """Each ``[h, w]`` map of the absolute values from its minimum to its maximum, one by one."""
    result = torch.zeros_like(term)
    for b, c in [(b, c) for b in range(term.shape[0]) for c in range(term.shape[1])]:
        one = term[b, c].abs()
        # A channel that is dead for an image has no map.
        if one.max() > one.min():
            result[b, c] = (one - one.min()) / (one.max() - one.min())
    return result


class Residual(nn.Module):
    """Standardization, convolution, BatchNorm, ReLU in place, addition in place, stride and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(3, 3, 1, stride=2, bias=False)
        self.hidden = nn.Linear(3, 5)
        self.hidden_norm = nn.BatchNorm1d(5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv1((x - 0.4) / 0.3)), inplace=True)
        out = self.conv2(x)
        out += self.shortcut(x)
        x = F.relu(out, inplace=True).mean((2, 3))
        return self.fc(F.relu(self.hidden_norm(self.hidden(x)), inplace=True))


def functional_residual(net: Residual, x: torch.Tensor, b: dict[str, torch.Tensor]) -> torch.Tensor:
    """``Residual`` in eval mode with its linear parts only and each bias as the tensor of ``b`` that is added there."""

    def scaled(y: torch.Tensor, norm: nn.Module, *axes: int) -> torch.Tensor:
        return y * (norm.weight / torch.sqrt(norm.running_var + norm.eps)).view(1, -1, *axes)

    z = x / 0.3 + b["offset"]
    x = F.relu(scaled(F.conv2d(z, net.conv1.weight, padding=1) + b["conv1"], net.norm, 1, 1) + b["norm"])
    x = F.relu(F.conv2d(x, net.conv2.weight, stride=2, padding=1) + b["conv2"] + F.conv2d(x, net.shortcut.weight, stride=2))
    x = F.linear(x.mean((2, 3)), net.hidden.weight) + b["hidden"]
    x = F.relu(scaled(x, net.hidden_norm) + b["hidden_norm"])
    return F.linear(x, net.fc.weight) + b["fc"]


def test_fullgrad_equals_explicit_bias_tensors():
    net = randomized(Residual()).double().eval()
    image = images(channels=2).double().requires_grad_(True)

    def beta(norm: nn.Module) -> torch.Tensor:
        return norm.bias - norm.weight * norm.running_mean / torch.sqrt(norm.running_var + norm.eps)

    b = {
        "offset": torch.full((3, 2, 12, 12), -0.4 / 0.3).double(),
        "conv1": net.conv1.bias.view(1, 3, 1, 1).expand(3, 3, 12, 12),
        "norm": beta(net.norm).view(1, 3, 1, 1).expand(3, 3, 12, 12),
        "conv2": net.conv2.bias.view(1, 3, 1, 1).expand(3, 3, 6, 6),
        "hidden": net.hidden.bias.expand(3, 5),
        "hidden_norm": beta(net.hidden_norm).expand(3, 5),
        "fc": net.fc.bias.expand(3, 2),
    }
    b = {name: value.detach().clone().requires_grad_(True) for name, value in b.items()}
    logits = functional_residual(net, image, b)
    torch.testing.assert_close(logits, net(image))
    gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), [image, *b.values()])
    terms = [value.detach() * gradient for value, gradient in zip([image, *b.values()], gradients, strict=True)]
    expected = sum(
        F.interpolate(rescaled(term), size=(12, 12), mode="bilinear", align_corners=False).sum(1, keepdim=True)
        for term in terms
        if term.ndim == 4
    )

    result = saliency.fullgrad(net, image)
    torch.testing.assert_close(result.map, expected)
    torch.testing.assert_close(result.value, (logits[:, 1] - logits[:, 0]).detach())
    torch.testing.assert_close(sum(term.flatten(1).sum(1) for term in terms), result.value)
    assert float(result.completeness.abs().max()) < 1e-12


def test_layers_may_be_rescaled_together():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 1.0]).view(2, 1, 1, 1))
        net[0].bias.copy_(torch.tensor([1.0, 10.0]))
        net[3].weight.copy_(torch.stack([torch.zeros(8), torch.tensor([1.0, 0, 0, 0, 0, 1.0, 0, 0])]))
    image = torch.zeros(1, 1, 2, 2)
    # Terms of the bias: 1 in the first pixel, 10 in the second; the image contributes nothing.
    assert saliency.fullgrad(net, image).map[0, 0].tolist() == [[1, 1], [0, 0]]
    joint = saliency.fullgrad(net, image, rescale="layer")
    torch.testing.assert_close(joint.map[0, 0], torch.tensor([[0.1, 1], [0, 0]]))
    assert joint.value.tolist() == [11]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_fullgrad_is_complete_on_the_resnet(dtype, bound):
    net = randomized(CXRResNet18()).to(dtype)
    result = saliency.fullgrad(net, images(2, size=64).to(dtype))
    assert (result.value.abs() > 0.1).all()
    assert (result.completeness.abs() <= bound * result.value.abs().clamp(min=1)).all()
    assert result.map.shape == (2, 1, 64, 64)
    assert result.map.dtype == dtype
    assert (result.map >= 0).all()
    assert not result.map.requires_grad


def test_completeness_shows_a_constant_that_was_not_found():
    net = randomized(TinyNet())
    inner = net.forward
    net.forward = lambda x: inner(x) + torch.tensor([0.0, 0.5])
    torch.testing.assert_close(saliency.fullgrad(net, images()).completeness, torch.full((3,), -0.5))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return randomized(CXRResNet18())


# The channels of Grad-CAM cancel: with random weights its map is small beside the terms that are rounded.
@pytest.mark.parametrize(("method", "bound"), [("fullgrad", 1e-5), ("input_gradient", 1e-5), ("grad_cam", 1e-3)])
def test_a_batch_equals_one_by_one(resnet, method, bound):
    image = images(8, size=40)
    batch = saliency.METHODS[method](resnet, image)
    single = torch.cat([saliency.METHODS[method](resnet, one[None]) for one in image])
    assert batch.shape == (8, 1, 40, 40)
    assert (batch >= 0).all()
    assert batch.amax() > 0
    assert (batch - single).abs().amax() <= bound * batch.amax()


def test_methods_are_all_tested():
    assert set(saliency.METHODS) == {"fullgrad", "input_gradient", "grad_cam"}


def test_a_module_called_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = F.leaky_relu(self.norm(self.conv(x)), 0.1, inplace=True)
            return self.fc(x.mean((2, 3)))

    net = randomized(Twice()).double()
    image = images().double()
    result = saliency.fullgrad(net, image)
    assert float(result.completeness.abs().max()) < 1e-12
    # The same as two modules of equal weights, in the other order of registration.
    second = nn.Sequential(net.conv, net.norm, nn.LeakyReLU(0.1))
    first = randomized(Twice(), 1).double()
    first.load_state_dict(net.state_dict())
    unrolled = nn.Sequential(first.conv, first.norm, nn.LeakyReLU(0.1), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc)
    torch.testing.assert_close(saliency.fullgrad(unrolled, image).map, result.map)


def test_linear_net_by_hand():
    weight = torch.tensor([[4.0, -3.0], [0.0, 1.0]])
    image = torch.tensor([[[[0.2, 0.98], [0.5, 0.0]]]])
    result = saliency.fullgrad(LinearNet(weight), image)
    term = (image * weight).abs()
    torch.testing.assert_close(result.map, term / term.max())
    assert float(result.value) == pytest.approx(0.8 - 2.94)
    assert float(result.completeness) == pytest.approx(0, abs=1e-6)
    assert torch.equal(saliency.input_gradient_map(LinearNet(weight), image)[0, 0], weight.abs())


def test_input_gradient_sums_channels_and_follows_the_score():
    net = randomized(Residual()).double().eval()
    image = images(channels=2).double()
    label = torch.tensor([1, 0, 1])
    found = saliency.input_gradient_map(net, image, lambda logits: logits.gather(1, label[:, None]).squeeze(1))
    x = image.clone().requires_grad_(True)
    logits = net(x)
    gradient = torch.autograd.grad(logits[0, 1] + logits[1, 0] + logits[2, 1], x)[0]
    torch.testing.assert_close(found, gradient.abs().sum(1, keepdim=True))


def test_grad_cam_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
        net[3].weight.copy_(torch.stack([torch.zeros(8), torch.tensor([1.0, 2, 3, 2, 4, 4, 4, 4])]))
    image = torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]])
    # At the ReLU the weights are 2 and 4, the activations (1, 0, 0.5, 0) and (0, 2, 0, 0).
    assert saliency.grad_cam(net, image, "1")[0, 0].tolist() == [[2, 8], [1, 0]]
    # At the convolution gradients pass only where the ReLU is open: weights (1 + 3) / 4 and 4 / 4, activations before it.
    assert saliency.grad_cam(net, image, "0")[0, 0].tolist() == [[0, 1], [0, 0]]
    # The other class loses by all of it.
    assert not saliency.grad_cam(net, image, "1", lambda logits: logits[:, 0] - logits[:, 1]).any()


@pytest.mark.parametrize("method", ["fullgrad", "input_gradient", "grad_cam"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(method, fails):
    net = randomized(TinyNet())
    net.conv.eval()
    net.norm.train()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    image = MetaTensor(images())
    kept = image.clone()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    if fails:
        net.fc.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("boom")))
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()]
    state = torch.get_rng_state()
    arguments = ("conv",) if method == "grad_cam" else ()
    try:
        with torch.no_grad():
            result = saliency.METHODS[method](net, image, *arguments)
        assert not fails
        assert type(result) is torch.Tensor
    except RuntimeError:
        assert fails
    assert torch.equal(torch.get_rng_state(), state)
    assert [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()] == hooks
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(net.fc.weight.grad, torch.ones_like(net.fc.weight))
    assert all(parameter.grad is None for name, parameter in net.named_parameters() if name != "fc.weight")
    assert torch.equal(image, kept)
    assert not image.requires_grad


def test_frozen_parameters_change_nothing():
    net = randomized(TinyNet())
    expected = saliency.fullgrad(net, images())
    found = saliency.fullgrad(net.requires_grad_(False), images())
    assert torch.equal(found.map, expected.map)
    assert torch.equal(found.completeness, expected.completeness)


def test_bad_arguments():
    net = TinyNet()
    for method in (saliency.fullgrad, saliency.input_gradient_map):
        with pytest.raises(ValueError, match="image must be"):
            method(net, torch.rand(1, 12, 12))
        with pytest.raises(ValueError, match="score must return"):
            method(net, images(), lambda logits: logits)
    with pytest.raises(ValueError, match=r"logits \[B, 2\]"):
        saliency.fullgrad(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), images())
    with pytest.raises(ValueError, match="rescale"):
        saliency.fullgrad(net, images(), rescale="none")
    with pytest.raises(ValueError, match="running statistics"):
        saliency.fullgrad(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(144, 2)), images())
    with pytest.raises(ValueError, match="called once"):
        saliency.grad_cam(net, images(), "fc")
    with pytest.raises(ValueError, match="needs layer"):
        saliency.grad_cam(net, images())
    with pytest.raises(AttributeError):
        saliency.grad_cam(net, images(), "layer4")
