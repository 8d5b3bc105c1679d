"""ProcessGroup started by `torchrun`; a plain run is the same code with world size 1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed

from tardiff.utils.errors import UserError
from tardiff.utils.memory import keep_freed_memory


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank, the world size and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, on every process."""
        if self.world_size > 1:
            moved = tensor.to(self.device)
            torch.distributed.all_reduce(moved)
            tensor = moved.to(tensor.device)
        return tensor

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the process group that `torchrun` describes, if any, and resolve the device name.

    `auto` is cuda, then cpu. Raises UserError on an unknown or absent device.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    resolved = resolve_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        yield ProcessGroup(0, 1, resolved)
        return
    if resolved.type == "cuda":
        torch.cuda.set_device(resolved)
    # One process may wait for hours where another has more chunks left or writes the dataset.
    torch.distributed.init_process_group("nccl" if resolved.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield ProcessGroup(torch.distributed.get_rank(), world_size, resolved)
    finally:
        torch.distributed.destroy_process_group()


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises UserError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cpu":
        keep_freed_memory()
        return device
    if device.type != "cuda":
        raise UserError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N.")
    index = local_rank if device.index is None else device.index
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise UserError(f"device '{name}' is not available on this machine "
                        f"({torch.cuda.device_count()} CUDA devices). Use device=cpu.")
    return torch.device("cuda", index)
