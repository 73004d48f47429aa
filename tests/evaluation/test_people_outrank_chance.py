"""On answers that people wrote: an answer is closer to its own reference than to another row's."""

import json
from pathlib import Path

import numpy as np
import pytest

from trimtab.evaluation.closeness import EXACT, KEYWORDS, NORMALISED, SCORES, Answered, score_all
from trimtab.formats import read_demonstrations

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "demonstrations" / "demonstrations.jsonl"
SHARED = ROOT.parent / "shared" / "data" / "demonstrations" / "user_oriented_instructions.jsonl"


def answers_of(path):
    """Distinct answers; of the shared file its own fields, of ours the records."""
    if path == SAMPLE:
        return list(dict.fromkeys(read_demonstrations(path).records[i].response for i in range(60)))
    if not path.is_file():
        pytest.skip(f"{path.name} lies beside the checkout only where the project is developed")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["instances"][0]["output"] for row in rows]


def keywords(text):
    """The longest words, as a person would list them."""
    return tuple(sorted({word for word in text.split() if word.isalpha()}, key=len)[-3:])


def reworded(text):
    """A rough paraphrase: every fourth word left out."""
    split = text.split()
    return " ".join(word for index, word in enumerate(split) if index % 4 != 3 or len(split) < 4)


def scored(answers, references):
    return score_all(
        [
            Answered(answer=answer, reference=reference, keywords=keywords(reference))
            for answer, reference in zip(answers, references, strict=True)
        ]
    )


def column(rows, name):
    return np.array([np.nan if row.scores[name] is None else row.scores[name] for row in rows])


def halves(texts):
    """The first and the second half of every text that is long enough to have any."""
    split = [text.split() for text in texts]
    long = [words for words in split if len(words) >= 8]
    return (
        [" ".join(words[: len(words) // 2]) for words in long],
        [" ".join(words[len(words) // 2 :]) for words in long],
    )


@pytest.mark.parametrize("path", [SAMPLE, SHARED], ids=["sample", "shared"])
@pytest.mark.parametrize("further", [1, 7])
def test_a_persons_first_half_is_closer_to_the_second_than_another_persons_is(path, further):
    """The halves share no word by construction, only their subject and the person who wrote them."""
    first, second = halves(answers_of(path))
    own, others = scored(first, second), scored(first[further:] + first[:further], second)
    for name, least in (("rouge_l", 0.75), ("chrf", 0.7), ("numbers", 0.55), (KEYWORDS, 0.55)):
        true, chance = column(own, name), column(others, name)
        there = ~np.isnan(true)
        assert there.sum() > 10 and (there == ~np.isnan(chance)).all()
        better = np.mean((true > chance)[there] + (true == chance)[there] / 2)
        assert better > least, name
        assert np.nanmean(true) > 1.4 * np.nanmean(chance), name


@pytest.mark.parametrize("path", [SAMPLE, SHARED], ids=["sample", "shared"])
def test_reworded_answers_outrank_shuffled_ones(path):
    answers = answers_of(path)
    others = answers[1:] + answers[:1]
    near, shuffled = scored(map(reworded, answers), answers), scored(others, answers)
    for name in (*SCORES, KEYWORDS):
        true, chance = column(near, name), column(shuffled, name)
        there = ~np.isnan(true)
        if name in (EXACT, NORMALISED):
            assert not np.nansum(chance)  # nobody wrote what another did
            continue  # a reworded answer is not the same text
        better = np.mean((true > chance)[there] + (true == chance)[there] / 2)
        assert better > 0.85, name
        assert np.nanmean(true) > np.nanmean(chance) + 0.3, name
