"""The packaged TorchScript: what it computes stays, what it tells of the machine goes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import nn

from sga_monai.hospital.torchscript import drop_debug_records


class Twice(nn.Module):
    """A module of this file, which TorchScript's debug records name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu() * 2


def test_debug_records_go_and_the_function_stays(tmp_path: Path) -> None:
    source, target = str(tmp_path / "whole.ts"), str(tmp_path / "model.ts")
    image = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        traced = torch.jit.trace(Twice().eval(), image)
        traced.save(source)
        drop_debug_records(source, target)
        again = torch.jit.load(target)
        assert torch.equal(again(image), traced(image))
    before, after = (zipfile.ZipFile(path).namelist() for path in (source, target))
    assert any(name.endswith(".debug_pkl") for name in before)
    assert not any(name.endswith(".debug_pkl") for name in after)
    whole = Path(__file__).name.encode()
    assert any(whole in zipfile.ZipFile(source).read(name) for name in before)
    assert not any(whole in zipfile.ZipFile(target).read(name) for name in after)
    # Tensors are aligned, so that they can be mapped into memory.
    with zipfile.ZipFile(target) as archive, Path(target).open("rb") as stream:
        for entry in archive.infolist():
            if "/data/" in entry.filename or "/constants/" in entry.filename:
                stream.seek(entry.header_offset + 26)
                name_length, extra_length = (int.from_bytes(stream.read(2), "little") for _ in range(2))
                assert (entry.header_offset + 30 + name_length + extra_length) % 64 == 0
