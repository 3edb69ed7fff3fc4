"""The reconstruction branch: target tokens (B, N, C) -> reconstructed tokens (B, N, C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from agp_edge.errors import ModelError

__all__ = ["MlpDecoder", "TransformerDecoder"]


class TransformerDecoder(nn.Module):
    """A light ViT (arXiv 2408.07490: four layers; the rest is not documented).

    Width below C, or a bottleneck, keeps it from copying its input.
    """

    def __init__(
        self,
        channels: int,
        tokens: int,
        *,
        width: int,
        depth: int,
        heads: int,
        bottleneck: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """Builds `depth` blocks of `width` channels.

        Args:
            channels: C of the tokens.
            tokens: N, the number of positions; each learns an embedding.
            width: channels inside; a multiple of `heads`.
            depth: number of blocks.
            heads: of the self-attention.
            bottleneck: channels of a narrower layer at the entrance; 0: none.
            dropout: share of the entrance's channels dropped in training.
        """
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise ModelError(f"decoder_width {width} is not a multiple of decoder_heads {heads}")
        self.entrance = _entrance(channels, width, bottleneck, dropout)
        self.position = nn.Parameter(torch.zeros(1, tokens, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.exit = _zero_linear(width, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> their reconstruction (B, N, C)."""
        hidden = self.entrance(tokens) + self.position
        for block in self.blocks:
            hidden = block(hidden)
        reconstructed: Tensor = self.exit(self.norm(hidden))
        return reconstructed

    def attention(self, tokens: Tensor) -> Tensor:
        """How much attention each token gets, (B, N): mean over blocks, heads and queries.

        It is the learned part of the perturbation mask; the rows' sum is 1.
        """
        hidden = self.entrance(tokens) + self.position
        received = []
        for block in self.blocks:
            assert isinstance(block, Block)  # for the type checker: ModuleList forgets it
            hidden, attention = block.forward_with_attention(hidden)
            received.append(attention)
        return torch.stack(received).mean(dim=0)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, ratio: int = 2) -> None:
        """Builds a block whose MLP is `ratio` times as wide."""
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, width) -> (B, N, width)."""
        query, key, value = self._heads(tokens)
        if torch.onnx.is_in_onnx_export():
            # as TensorRT fuses it: the exporter would put half of the scale on each side
            scale = query.shape[-1] ** -0.5
            weights = ((query * scale) @ key.transpose(-2, -1)).softmax(-1)
            return self._mixed(tokens, weights @ value)
        return self._mixed(tokens, functional.scaled_dot_product_attention(query, key, value))

    def forward_with_attention(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the attention each token gets, (B, N).

        The latter is the mean over heads and queries of the softmax attention, which the fused
        kernel of `forward` never has.
        """
        query, key, value = self._heads(tokens)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (B, heads, N, N)
        attention = scores.softmax(dim=3)
        return self._mixed(tokens, attention @ value), attention.mean(dim=(1, 2))

    def _mixed(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        mlp: Tensor = self.mlp(self.norm2(tokens))
        return tokens + mlp

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, count, width = tokens.shape
        query, key, value = (
            part.reshape(batch, count, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(tokens)).chunk(3, dim=2)
        )
        return query, key, value


class MlpDecoder(nn.Module):
    """Reconstructs each token by itself through a bottleneck; an alternative that trains faster.

    It has no self-attention, hence no learned part of the perturbation mask.
    """

    def __init__(self, channels: int, *, width: int, bottleneck: int, dropout: float = 0.0) -> None:
        """Builds C -> width -> bottleneck -> width -> C; `bottleneck` 0 means width / 4."""
        super().__init__()
        narrow = bottleneck or max(width // 4, 1)
        self.layers = nn.Sequential(
            nn.Linear(channels, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, narrow),
            nn.Linear(narrow, width),
            nn.GELU(),
            _zero_linear(width, channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> their reconstruction (B, N, C)."""
        reconstructed: Tensor = self.layers(tokens)
        return reconstructed


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A last layer that gives zero, the whitened target's mean: the best guess before training."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _entrance(channels: int, width: int, bottleneck: int, dropout: float) -> nn.Module:
    if bottleneck:
        return nn.Sequential(
            nn.Linear(channels, bottleneck), nn.Dropout(dropout), nn.Linear(bottleneck, width)
        )
    return nn.Sequential(nn.Linear(channels, width), nn.Dropout(dropout))
