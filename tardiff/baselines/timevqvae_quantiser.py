"""The quantiser of TimeVQVAE: feature vectors become the nearest of a codebook's codes, which follow them by a moving
average (van den Oord et al. 2017, 'Neural discrete representation learning', appendix A.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE_WIDTH = 8
DECAY = 0.8
SMOOTHING = 1e-5
KMEANS_ITERATIONS = 10
CHUNK = 4096


class Quantiser(nn.Module):
    """A codebook of `codebook_size` codes of 8 numbers, between linear maps from and to `width` features.

    A code whose moving count of vectors per batch falls below `revive_below` times the mean over codes is replaced by a
    random vector of the batch.
    """

    def __init__(self, width: int, codebook_size: int, revive_below: float) -> None:
        super().__init__()
        self.revive_below = revive_below
        self.project_in = nn.Linear(width, CODE_WIDTH)
        self.project_out = nn.Linear(CODE_WIDTH, width)
        self.register_buffer("codes", torch.randn(codebook_size, CODE_WIDTH))
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise z (B, N, width): return it quantised, its tokens (B, N) int64 and the commitment loss, a scalar.

        The gradient passes straight through to z. In training the codes are updated, after use.
        """
        vectors = self.project_in(z)
        tokens = self.nearest(vectors)
        codes = self.codes[tokens]
        commitment = F.mse_loss(vectors, codes)
        if self.training:
            self._follow(vectors.detach().flatten(0, 1), tokens.flatten())
        return self.project_out(vectors + (codes - vectors).detach()), tokens, commitment

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the number (...) int64 of the code nearest to each of vectors (..., 8)."""
        parts = [torch.cdist(part, self.codes).argmin(dim=1)
                 for part in vectors.detach().reshape(-1, CODE_WIDTH).split(CHUNK)]
        return torch.cat(parts).view(vectors.shape[:-1])

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the features (B, N, width) of tokens (B, N)."""
        return self.project_out(self.codes[tokens])

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Put the codes at the centres that k-means finds in z (B, N, width), from random vectors of it."""
        vectors = self.project_in(z).flatten(0, 1)
        size = len(self.codes)
        first = torch.randperm(len(vectors), device=z.device)[:size] if len(vectors) >= size else torch.randint(
            len(vectors), (size,), device=z.device)
        self.codes.copy_(vectors[first])
        for _ in range(KMEANS_ITERATIONS):
            counts, sums = self._assigned(vectors, self.nearest(vectors))
            self.codes.copy_(torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], self.codes))
        self._place(torch.ones(size, dtype=torch.bool, device=z.device), self.codes)

    def _follow(self, vectors: Tensor, tokens: Tensor) -> None:
        """Move the codes towards the vectors (M, 8) assigned to them, and revive those that none have joined lately."""
        counts, sums = self._assigned(vectors, tokens)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + len(self.counts) * SMOOTHING) * total
        self.codes.copy_(self.sums / smoothed[:, None])
        chosen = torch.randint(len(vectors), self.counts.shape, device=vectors.device)
        self._place(self.counts < self.revive_below * self.counts.mean(), vectors[chosen])

    def _assigned(self, vectors: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number (K,) and the sum (K, 8) of the vectors (M, 8) of each token."""
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        for part, chosen in zip(vectors.split(CHUNK), tokens.split(CHUNK), strict=True):
            members = F.one_hot(chosen, len(self.counts)).to(vectors.dtype)
            counts += members.sum(dim=0)
            sums += members.T @ part
        return counts, sums

    def _place(self, which: Tensor, vectors: Tensor) -> None:
        """Put the codes `which` (K,) bool at vectors (K, 8), as if one vector had been assigned to each."""
        self.codes.copy_(torch.where(which[:, None], vectors, self.codes))
        self.sums.copy_(torch.where(which[:, None], vectors, self.sums))
        self.counts.copy_(torch.where(which, 1.0, self.counts))
