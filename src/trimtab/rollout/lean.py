"""The backbone of Llama's relatives as few operations on packed weights, for sampling in bfloat16.

Shapes: A = rows, T = tokens of a row, H = query heads, K = key-value heads, S = head size, D = model size.

One token for each of a few rows is little work in many steps, much of which is telling torch what to do.
Here query, key and value are one product, gate and up are another, and on a CPU each matrix is laid out once
as its kernel reads it. The weights are copies: whoever trains the model makes a new pass (`LeanPass.of`)
after every update.

A model is taken only if its blocks have the parts that are known here and nothing else, and if it then gives
the same states as its own code (`rollout.engine`). Llama (SmolLM2 among them), Qwen2 and Qwen3 do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.model.adapters import Adapted, adapted

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_FEED_FORWARD = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_BACKBONE = {"embed_tokens", "layers", "norm", "rotary_emb"}
PACKED_FOR = 32
"""Rows of input that the kernel's layout is chosen for; it is right for any number."""


class Layout(Protocol):
    """Attention of a pass: over packed prompts, or of one new token a row over what is stored."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[A, H, T, S]; key and value [A, K, T, S]."""
        ...


class LeanPass:
    """The backbone as one function of ids, positions and layout.

    Args:
        made_from: the digest (`rollout.weights`) of the model whose weights are copied here.
    """

    def __init__(self, backbone: Any, dtype: torch.dtype, made_from: str = "") -> None:
        self.made_from = made_from
        self._table: Tensor = backbone.embed_tokens.weight
        self._rotary: nn.Module = backbone.rotary_emb
        self._norm: nn.Module = backbone.norm
        self._blocks = [_Block(number, layer, dtype) for number, layer in enumerate(backbone.layers)]

    @classmethod
    def of(cls, backbone: nn.Module, dtype: torch.dtype, made_from: str = "") -> LeanPass | None:
        """The pass for the weights as they are; None for a model whose parts are not known here."""
        known = _parts(backbone) == _BACKBONE and all(map(_is_known, cast(nn.ModuleList, backbone.layers)))
        return cls(backbone, dtype, made_from) if known else None

    def __call__(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """The last hidden states [A, T, D] of ids [A, T] at these positions, float32."""
        hidden = F.embedding(ids, self._table)
        angles = tuple(one.unsqueeze(2) for one in self._rotary(hidden, positions))  # [A, T, 1, S]
        for block in self._blocks:
            block(hidden, angles, layout)
        found: Tensor = self._norm(hidden)
        return found


class _Block:
    """One decoder block, which adds to the hidden states in place."""

    def __init__(self, number: int, layer: Any, dtype: torch.dtype) -> None:
        attention, feed_forward = layer.self_attn, layer.mlp
        self._number, self._dtype = number, dtype
        self._size: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._key_heads = attention.k_proj.out_features // self._size
        self._query_heads = attention.q_proj.out_features // self._size
        self._norms = (_Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm))
        self._head_norms = [
            _Norm(getattr(attention, name)) for name in ("q_norm", "k_norm") if hasattr(attention, name)
        ]
        self._read = Matrix.of((attention.q_proj, attention.k_proj, attention.v_proj), dtype)
        self._write = Matrix.of((attention.o_proj,), dtype)
        self._gate_up = Matrix.of((feed_forward.gate_proj, feed_forward.up_proj), dtype)
        self._down = Matrix.of((feed_forward.down_proj,), dtype)

    def __call__(self, hidden: Tensor, angles: Sequence[Tensor], layout: Layout) -> None:
        before_attention, before_feed_forward = self._norms
        attended = self._attend(before_attention(hidden).to(self._dtype), angles, layout)
        hidden.add_(self._write(attended))
        gate, up = self._gate_up(before_feed_forward(hidden).to(self._dtype)).chunk(2, dim=-1)
        hidden.add_(self._down(F.silu(gate).mul_(up)))

    def _attend(self, normed: Tensor, angles: Sequence[Tensor], layout: Layout) -> Tensor:
        heads = self._read(normed).view(*normed.shape[:2], -1, self._size)  # [A, T, H + 2 K, S]
        sizes = [self._query_heads, self._key_heads]
        turning, value = torch.split(heads, [sum(sizes), self._key_heads], dim=2)
        if self._head_norms:
            both = torch.split(turning, sizes, dim=2)
            normed_heads = (norm(one) for norm, one in zip(self._head_norms, both, strict=True))
            turning = torch.cat([one.to(self._dtype) for one in normed_heads], dim=2)
        query, key = torch.split(_turned(turning, *angles), sizes, dim=2)
        attended = layout.attend(
            self._number,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            self._scaling,
        )
        return attended.transpose(1, 2).flatten(2).to(self._dtype)


class _Norm:
    """w x / sqrt(mean(x^2) + epsilon) in float32."""

    def __init__(self, module: Any) -> None:
        self._weight: Tensor = module.weight
        self._epsilon: float = module.variance_epsilon

    def __call__(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.to(self._weight.dtype), self._weight.shape, self._weight, self._epsilon)


class Matrix:
    """x W' + b, with W in the layout that the device's kernel reads, and an adapter's product beside it.

    Args:
        weight: [out, in].
        bias: [out], of the same type.
        beside: `down` [rank, in] and `up` [out, rank] of the same type: (x down') up' is added.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, beside: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self._bias, self._beside = bias, beside
        self._packed = _packs(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR) if self._packed else weight

    @classmethod
    def of(cls, layers: Sequence[nn.Module], dtype: torch.dtype) -> Matrix:
        """Linear layers of the same input, as one; adapters are not merged: rounding would swallow them."""
        parts = [cast(Adapted, adapted(layer)) for layer in layers]
        biases = [part.matrix.bias.detach() for part in parts if part.matrix.bias is not None]
        together = torch.cat([part.matrix.weight.detach().to(dtype) for part in parts])
        return cls(together, torch.cat(biases).to(dtype) if biases else None, _beside(parts, dtype))

    def __call__(self, given: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        found = self._product(given)
        if self._beside is None:
            return found
        down, up = self._beside
        return found.add_(F.linear(F.linear(given, down), up))

    def _product(self, given: Tensor) -> Tensor:
        if not self._packed:
            return F.linear(given, self._weight, self._bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._weight, self._bias, "none", [], "")
        return found


def _beside(parts: Sequence[Adapted], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """The adapters of layers of the same input as one: `down` end to end, `up` in blocks."""
    downs = [part.down for part in parts if part.down is not None]
    if not downs:
        return None
    blocks = [
        part.matrix.weight.new_zeros(part.matrix.out_features, 0) if part.up is None else part.up
        for part in parts
    ]
    return torch.cat(downs).to(dtype), torch.block_diag(*blocks).to(dtype)  # type: ignore[no-untyped-call]


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN, which computes linear layers on CPUs, has a layout of its own for this weight."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    return weight.dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions [A, T, H, S], by angles [A, T, 1, S]; float32."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_known(layer: Any) -> bool:
    """Whether the block has the parts that `_Block` reads, and no others."""
    if _parts(layer) != _BLOCK or _parts(layer.mlp) != _FEED_FORWARD:
        return False
    attention, feed_forward = layer.self_attn, layer.mlp
    if _parts(attention) not in (_ATTENTION, _ATTENTION | _HEAD_NORMS):
        return False
    together = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (feed_forward.gate_proj, feed_forward.up_proj),
        (attention.o_proj,),
        (feed_forward.down_proj,),
    )
    parts = [[part for layer in group if (part := adapted(layer)) is not None] for group in together]
    alike = all(
        len(found) == len(group) and len({part.matrix.bias is None for part in found}) == 1
        for found, group in zip(parts, together, strict=True)
    )
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(attention, name) for name in _HEAD_NORMS if hasattr(attention, name)]
    return alike and all(hasattr(norm, "variance_epsilon") for norm in norms)
