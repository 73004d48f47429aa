"""The floating-point operations that a training step cannot do without. Pure arithmetic, no torch.

Counted: multiplications and additions of matrix products. Left out: norms, softmax, rotary angles, the
optimizer, and every recomputation; so a share of the matrix peak that is built on these counts is a lower
bound.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like model."""

    layers: int
    width: int
    inner: int
    """Width within the feed-forward part, which has three matrices."""
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int

    @property
    def body_parameters(self) -> int:
        """Weights of the matrices between embedding and head; each token is multiplied with all of them."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        attention = self.width * (queries + 2 * keys) + queries * self.width
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the distinct matrices of a layer, and of the head."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        own = {(self.width, queries), (self.width, keys), (self.width, self.inner), (self.inner, self.width)}
        return sorted({*own, (self.width, self.vocabulary)})


def shape_of(folder: Path) -> Shape:
    """Read a model's config.json."""
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama", "the counts below are those of Llama's blocks"
    return Shape(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        key_value_heads=config["num_key_value_heads"],
        head_width=config["head_dim"],
        vocabulary=config["vocab_size"],
    )


def minimum_flops(shape: Shape, prompt: int, responses: Sequence[int], *, outputs: int, scored: int) -> int:
    """Forward and backward over one prompt with its responses, the prompt computed once.

    Three terms.

    - Body: a weight matrix costs a token 2 operations a weight forward (multiply, add) and 4 backward (the
      gradient by the input and the one by the weight): 6 x body parameters x (prompt + responses).
    - Attention: a query of `head_width` meets each key it may see twice, in q.k and in weight x value: 4 x
      heads x head_width operations forward for each pair of query and key. Backward has four such products
      where forward has two (by q, k, v and by the weights): 12 in all, in each layer. Causal: token i of the
      prompt sees i keys (itself too), token j of a response sees prompt + j. Other responses are never seen.
    - Head: 6 x width x outputs for each scored position, as for any weight matrix.

    Args:
        outputs: of the head: the vocabulary, or 1 for a reward.
        scored: positions that reach the head: the response tokens, or one for each response.

    The last token of a response predicts nothing, so that a preference loss could do without passing it
    through the body; it is counted all the same (a reward needs it): prompt + chosen + rejected is what is
    called needed.
    """
    tokens = prompt + sum(responses)
    seen = _triangle(prompt) + sum(length * prompt + _triangle(length) for length in responses)
    body = 6 * shape.body_parameters * tokens
    attention = 12 * shape.layers * shape.heads * shape.head_width * seen
    return body + attention + 6 * shape.width * outputs * scored


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
