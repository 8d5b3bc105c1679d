"""Recurrent classifier: a GRU or LSTM read out at the final state of each direction."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class RNNClassifier(nn.Module):
    """Classify fixed-length series from the final hidden state of every direction of a stacked GRU or LSTM.

    The forward direction ends at the last time step and the backward direction at the first, so each half of the
    readout has seen the whole series. The released TarDiff code reads the last time step of both directions, where
    the backward half has seen a single step; the defaults of this class are those of its GRU (its LSTM: 128 hidden).
    """

    def __init__(self, num_channels: int, num_classes: int, cell: str = "gru", hidden_size: int = 256,
                 num_layers: int = 2, dropout: float = 0.2, bidirectional: bool = True) -> None:
        super().__init__()
        self.num_directions = 2 if bidirectional else 1
        self.rnn = CELLS[cell](num_channels, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional,
                               dropout=dropout if num_layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.num_directions * hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)` float for series `x (B, L, C)` float in normalised units."""
        _, state = self.rnn(x)
        hidden = state[0] if isinstance(state, tuple) else state
        last_layer = hidden[-self.num_directions:]
        return self.head(self.dropout(rearrange(last_layer, "direction b h -> b (direction h)")))
