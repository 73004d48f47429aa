"""What the package carries: small enough, with tokens of their own, and known to every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.demo.assets import ASSETS, GOLD, MODEL, WITNESS
from trimtab.errors import ModelError
from trimtab.judges.judge import Answer
from trimtab.judges.named import load_judge
from trimtab.model.device import choose
from trimtab.model.load import load_tokenizer, parameter_count
from trimtab.model.names import resolve


def test_the_model_is_small_and_has_tokens_of_its_own() -> None:
    folder = Path(resolve(MODEL))
    assert 2e6 < parameter_count(MODEL) < 5e6
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
    tokenizer = load_tokenizer(MODEL).tokenizer
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert len(tokenizer) == 4096
    assert not list(ASSETS.rglob("*.p*kl*")) and not list(ASSETS.rglob("*.bin"))


def test_a_misspelt_name_is_answered_with_it() -> None:
    with pytest.raises(ModelError, match=f"did you mean {MODEL}"):
        resolve("film-review-5m")


@pytest.mark.parametrize("judge", [f"words:{GOLD}", f"probe:{WITNESS}"], ids=["gold", "witness"])
def test_both_scorers_tell_praise_from_blame(judge: str) -> None:
    praise = ["A moving, funny and beautifully acted film.", "One of the best and most enjoyable films."]
    blame = ["A dull, stupid and badly written mess.", "One of the worst and most boring films."]
    scorer = load_judge((judge,), choose("cpu", "float32"))
    scores = scorer.score([Answer("", text) for text in [*praise, *blame]])
    assert sum(scores[:2]) > sum(scores[2:]) + 0.1
