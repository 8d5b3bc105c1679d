"""The second stage of TimeVQVAE: transformers that predict masked tokens, and the decoding that fills masks step by
step (Lee et al. 2023, section 3.2; Chang et al. 2022, 'MaskGIT: Masked generative image transformer')."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

HEAD_WIDTH = 64
EMBEDDING_DROPOUT = 0.3


class Prior(nn.Module):
    """Predict the masked tokens of a band from the others, from the class and, if it has one, from a context.

    Token `codebook_size` is the mask, and class `num_classes` means 'no class'. Half of the features of a token come
    from the context, where there is one.
    """

    def __init__(self, num_tokens: int, codebook_size: int, num_classes: int, token_width: int, width: int,
                 num_layers: int, num_heads: int, context: nn.Module | None = None) -> None:
        super().__init__()
        self.mask = codebook_size
        self.tokens = nn.Embedding(codebook_size + 1, token_width)
        self.context = context
        features = 2 * token_width if context else token_width
        self.positions = nn.Parameter(torch.randn(num_tokens, features))
        self.classes = nn.Embedding(num_classes + 1, features)
        self.entry = nn.Linear(features, width)
        self.attention = nn.ModuleList(Attention(width, num_heads) for _ in range(num_layers))
        self.perceptrons = nn.ModuleList(_perceptron(width) for _ in range(num_layers))
        self.head = nn.Sequential(weight_norm(nn.Linear(width, width)), nn.GELU(), nn.LayerNorm(width, eps=1e-12),
                                  weight_norm(nn.Linear(width, codebook_size)))

    def forward(self, tokens: Tensor, labels: Tensor, context: Tensor | None = None) -> Tensor:
        """Return logits (B, N, codebook_size) for tokens (B, N), labels (B,) and a context (B, N, token_width)."""
        features = self.tokens(tokens)
        hidden = (tokens == self.mask)[..., None]
        features = torch.where(hidden, features, F.dropout(features, EMBEDDING_DROPOUT, self.training))
        if context is not None:
            features = torch.cat([context, features], dim=2)
        x = self.entry(torch.cat([self.classes(labels)[:, None], features + self.positions], dim=1))
        for attention, perceptron in zip(self.attention, self.perceptrons, strict=True):
            x = x + attention(x)
            x = x + perceptron(x)
        return self.head(x[:, 1:])


class TokenContext(nn.Module):
    """Features, for each of `num_tokens` tokens, of the tokens of another band."""

    def __init__(self, codebook_size: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.tokens = nn.Embedding(codebook_size + 1, width)
        self.layers = nn.Sequential(weight_norm(nn.Conv1d(width, 2 * width, 7, padding=3)), nn.GELU(),
                                    nn.BatchNorm1d(2 * width),
                                    weight_norm(nn.Conv1d(2 * width, width, 7, padding=6, dilation=2)))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, M), none masked -> features (B, num_tokens, width)."""
        features = F.dropout(self.tokens(tokens), EMBEDDING_DROPOUT, self.training)
        return self.layers(F.interpolate(features.transpose(1, 2), self.num_tokens)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention over (B, N, width) and one learned key and value, between layer normalisations; queries and
    keys have length 1, times learned scales."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        inner = num_heads * HEAD_WIDTH
        self.num_heads = num_heads
        self.norm, self.norm_output = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = weight_norm(nn.Linear(width, inner, bias=False))
        self.key_value = weight_norm(nn.Linear(width, 2 * inner, bias=False))
        self.null = nn.Parameter(torch.randn(2, num_heads, 1, HEAD_WIDTH))
        self.query_scale, self.key_scale = (nn.Parameter(torch.ones(HEAD_WIDTH)) for _ in range(2))
        self.output = weight_norm(nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        query = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.num_heads)
        key_value = rearrange(self.key_value(x), "b n (two h d) -> two b h n d", two=2, h=self.num_heads)
        null = self.null[:, None].expand(-1, len(x), -1, -1, -1)
        key, value = torch.cat([null, key_value], dim=3)
        attended = F.scaled_dot_product_attention(F.normalize(query, dim=3) * self.query_scale,
                                                  F.normalize(key, dim=3) * self.key_scale, value)
        return self.norm_output(self.output(rearrange(attended, "b h n d -> b n (h d)")))


def _perceptron(width: int) -> nn.Sequential:
    inner = width * 2 // 3
    return nn.Sequential(nn.LayerNorm(width), weight_norm(nn.Linear(width, inner, bias=False)), nn.GELU(),
                         nn.LayerNorm(inner), nn.Linear(inner, width, bias=False))


def hide_tokens(tokens: Tensor, mask: int) -> Tensor:
    """Replace tokens (B, N) by `mask` at random places: in each row all but floor(N cos(pi u / 2)), and at least one,
    for u uniform in (0, 1)."""
    rows, num_tokens = tokens.shape
    share = torch.cos(torch.rand(rows, 1, device=tokens.device) * math.pi / 2)
    kept = (share * num_tokens).floor().clamp(max=num_tokens - 1)
    order = torch.rand(rows, num_tokens, device=tokens.device).argsort(dim=1).argsort(dim=1)
    return torch.where(order < kept, tokens, mask)


def masked_loss(logits: Tensor, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Return the cross-entropy, a scalar, of logits (B, N, K) for tokens (B, N) where `hidden` (B, N) bool."""
    return F.cross_entropy(logits[hidden], tokens[hidden])


def fill_masks(predict: Callable[[Tensor], Tensor], masks: Tensor, mask: int, steps: int, temperature: float,
               noise: Callable[[int], Tensor]) -> Tensor:
    """Return tokens (B, N) int64 drawn in some steps in place of `masks` (B, N), all of them `mask`.

    predict(tokens) returns logits (B, N, mask). At each step all masks are drawn, and those of least confidence masked
    again: floor(N cos(pi / 2 s)) after the share s of the steps. Confidence is the logarithm of the probability of what
    was drawn plus Gumbel noise times temperature (1 - s). noise(step) -> standard normal (B, N, 2), all the randomness.
    """
    tokens = masks
    for step in range(steps):
        uniform = torch.special.ndtr(noise(step).double())
        probabilities = predict(tokens).double().softmax(dim=2)
        hidden = tokens == mask
        drawn = torch.searchsorted(probabilities.cumsum(dim=2), uniform[..., :1].contiguous()).clamp(max=mask - 1)
        done = (step + 1) / steps
        gumbel = -torch.log(-torch.log(uniform[..., 1]))
        confidence = torch.log(probabilities.gather(2, drawn)[..., 0] + 1e-5) + temperature * (1 - done) * gumbel
        least = confidence.masked_fill(~hidden, torch.inf).argsort(dim=1, stable=True)
        tokens = torch.where(hidden, drawn[..., 0], tokens)
        tokens = tokens.scatter(1, least[:, :math.floor(masks.shape[1] * math.cos(math.pi / 2 * done))], mask)
    return tokens
