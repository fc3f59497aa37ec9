"""What a piece of work needs, counted and not timed: floating-point operations and the peak of its tensors' memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class CountFlops(TorchDispatchMode):
    """FLOPs of what runs inside.

    torch's own ``FlopCounterMode`` also tracks modules, by hooks that ``torch.autograd.grad`` does not allow.

    Example:
        >>> with CountFlops() as counter:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> counter.total
        48
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of one call."""
    with CountFlops() as counter:
        run()
    return int(counter.total)


class _CountMemory(TorchDispatchMode):
    """Bytes of the tensors that operations inside have made and that are still there, and the most of it.

    A storage is known by its address, which is given again when it is gone: hence the weak references.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._add((args, kwargs), made=False)
        out = func(*args, **(kwargs or {}))
        self._add(out, made=True)
        self.seen = {key: noted for key, noted in self.seen.items() if not noted[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.seen.values()))
        return out

    def _add(self, values: Any, made: bool) -> None:
        """Note storages that were not seen yet; those that are there before an operation gets them count nothing."""
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                known = self.seen.get(storage._cdata)
                if known is None or known[0].expired():
                    self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes() if made else 0


def peak_memory(run: Callable[[], object], device: str = "cpu") -> float:
    """Bytes of tensors that one call has at most at a time, above those that were there before.

    On CUDA as its allocator counts, on a CPU by the tensors that operations return; what a kernel needs for itself does not count.

    Example:
        >>> peak_memory(lambda: torch.ones(1000) + 1)
        8000.0
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    with _CountMemory() as counter:
        run()
    return float(counter.peak)
