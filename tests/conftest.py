"""Fixtures for all tests: tiny models, and nothing from the network."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A busy machine is slow for a moment; that is no defect of an example.
hypothesis.settings.register_profile("trimtab", deadline=None)
hypothesis.settings.load_profile("trimtab")
# For make mutants: the same examples every time, and a failure is enough, the smallest is not sought.
hypothesis.settings.register_profile(
    "mutants",
    parent=hypothesis.settings.get_profile("ci"),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)

# Read when huggingface_hub is imported, which `tiny` below does.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# `from tiny import ...` in a test module, without putting tests/ on the path: its folders are named
# as packages are (statistics, data), and would be found in their place.
_spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
assert _spec and _spec.loader
tiny = importlib.util.module_from_spec(_spec)
sys.modules["tiny"] = tiny
_spec.loader.exec_module(tiny)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer; do not change it."""
    built: PreTrainedTokenizerFast = tiny.tiny_tokenizer()
    return built


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and its tokenizer, as save_pretrained writes them; do not change it."""
    folder = tmp_path_factory.mktemp("model")
    tiny.tiny_llama(seed=0).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder
