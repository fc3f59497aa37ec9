"""``models/model.ts`` of a bundle: its network as TorchScript, the same bytes on every machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from sga_monai.core.errors import InputError
from sga_monai.hospital.formats import MODEL, weights_file
from sga_monai.model.networks import build_network


def trace_apart(draft: Path, image_size: int, network: str) -> None:
    """``write_torchscript`` in a process of its own: TorchScript numbers its classes by what a process has traced before.

    Args:
        draft: the bundle that is being made.
        image_size: rows and columns.
        network: its name in ``NETWORKS``.

    Raises:
        InputError: when the network cannot be traced.
    """
    program = f"import sys; from {__name__} import write_torchscript; write_torchscript(sys.argv[1], int(sys.argv[2]), sys.argv[3])"
    result = subprocess.run([sys.executable, "-c", program, str(draft), str(image_size), network], capture_output=True, check=False)
    if result.returncode:
        raise InputError("the network could not be traced to TorchScript; check image_size and free memory")


def write_torchscript(draft: str | Path, image_size: int, network: str) -> None:
    """Write ``models/model.ts`` of ``models/model.pt`` in the folder ``draft``, traced in eval mode with one image.

    Without TorchScript's debug records, which name the source files of the machine it was traced on.
    """
    model = build_network(network)
    model.load_state_dict(torch.load(Path(draft) / weights_file(MODEL), map_location="cpu", weights_only=True))
    with torch.no_grad():
        traced = torch.jit.trace(model.eval(), torch.zeros(1, 1, image_size, image_size))
    path, whole = (str(Path(draft) / f"models/{name}.ts") for name in ("model", "whole"))
    traced.save(whole)
    drop_debug_records(whole, path)
    Path(whole).unlink()


def drop_debug_records(source: str, target: str) -> None:
    """Copy a TorchScript file without its debug records, which name the source files of the machine that traced it.

    By torch's own reader and writer, which are not public: they align the tensors, and a plain zip would not.
    """
    reader, writer = torch._C.PyTorchFileReader(source), torch._C.PyTorchFileWriter(target)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", "byteorder", ".data/serialization_id"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
