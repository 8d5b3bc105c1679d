"""Seeds: a function of what they are for, and of nothing else."""

import hashlib

import torch

from tardiff.utils.seeding import derive_seed, seed_torch


def test_a_seed_is_63_bits_of_the_sha256_of_its_parts():
    expected = int(hashlib.sha256(b"7/denoiser/12/0").hexdigest()[:16], 16) // 2
    assert derive_seed(7, "denoiser", 12, 0) == expected < 2**63


def test_seeds_of_neighbouring_purposes_steps_and_ranks_differ():
    seeds = {derive_seed(seed, purpose, step, rank) for seed in range(5) for purpose in ("denoiser", "classifier")
             for step in range(50) for rank in range(4)}
    assert len(seeds) == 5 * 2 * 50 * 4


def test_draws_depend_on_the_parts_alone():
    seed_torch(0, "denoiser", 3)
    expected = torch.randn(4), torch.nn.functional.dropout(torch.ones(64)), torch.randperm(9)
    torch.randn(1000)
    seed_torch(0, "denoiser", 3)
    again = torch.randn(4), torch.nn.functional.dropout(torch.ones(64)), torch.randperm(9)
    assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))
    seed_torch(0, "denoiser", 4)
    assert not torch.equal(torch.randn(4), expected[0])


def test_the_streams_of_consecutive_steps_are_not_correlated():
    draws = []
    for step in range(64):
        seed_torch(0, "denoiser", step, 0)
        draws.append(torch.randn(1000, dtype=torch.float64))
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(64)
    assert correlations.abs().max() < 5 / 1000**0.5
