"""Settings of evaluations against what people wrote."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from trimtab.config import Settings


class DemonstrationSettings(Settings):
    """How models answer and are measured on demonstrations."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Runs or models; the first is what the others are measured against."""
    data: str
    """Demonstrations that none of them was trained on."""
    text: str | None = None
    """Plain text (a .txt file, blank lines between passages): what a model must not unlearn."""
    count: PositiveInt | None = None
    """Only the first so many demonstrations."""
    encoder: str | None = None
    """Sentence encoder of the similarity of meaning: a folder or hub id; the installed one when left out."""
    max_prompt: PositiveInt = 512
    """Tokens of a prompt at most; longer chats lose their oldest turns."""
    max_response: PositiveInt = 128
    """Tokens of an answer at most, and of a reference in the likelihood."""
    device: str = "auto"
    """auto takes CUDA where there is one, else the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass."""
    row_tokens: PositiveInt = 1024
    """Tokens that go through the model at once."""
    seed: int = 0
    """Of the bootstrap."""
