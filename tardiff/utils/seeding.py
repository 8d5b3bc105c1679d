"""Seeds derived from what a random draw is for, so that no draw depends on the draws before it."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that is a hash of `parts`, such as (seed, "train", step, rank)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_torch(*parts: int | str) -> None:
    """Seed torch's generators on every device from `parts`; dropout and all draws that follow depend on them alone."""
    torch.manual_seed(derive_seed(*parts))
