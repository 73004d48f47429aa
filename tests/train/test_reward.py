"""The reward stage's own options: margins, rankings in one row, a temperature, and what holds the level."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.data.rankings import joined, pairs_in
from trimtab.data.tokens import Example, Pair, Response
from trimtab.errors import ConfigError
from trimtab.losses.bradley_terry import bradley_terry_loss, plackett_luce_loss, ranking_loss
from trimtab.model import scalar
from trimtab.model.device import Numerics
from trimtab.model.scalar import Scorer, load_scorer
from trimtab.runs.run import read_facts, read_metrics
from trimtab.statistics.calibration import fitted_temperature
from trimtab.train import loop, reward
from trimtab.train.reward_measures import DevPairs
from trimtab.train.settings import OptimizerSettings

CPU = torch.device("cpu")
CHOSEN, REJECTED = torch.tensor([1.5, -0.5, 2.0]), torch.tensor([1.0, 0.5, -2.0])
REWARDS = torch.stack([CHOSEN, REJECTED], 1).flatten()
RANKED = torch.tensor([0.3, 1.2, -0.7, 0.1])


def pairs(*strengths: int | None) -> list[Example]:
    responses = (Response((5, 2), True), Response((6, 2), True))
    return [Example((3,), responses, pairs=(Pair(0, 1, strength),)) for strength in strengths]


THREE = pairs_in(pairs(None, None, None), CPU)


def surprise(lead: float) -> float:
    return math.log1p(math.exp(-lead))


def test_without_options_it_is_the_likelihood(settings_of: Callable[..., Any]) -> None:
    found = reward.pair_losses(REWARDS, THREE, settings_of("reward"))
    torch.testing.assert_close(found, bradley_terry_loss(CHOSEN, REJECTED))


def test_margin_and_centring(settings_of: Callable[..., Any]) -> None:
    found = reward.pair_losses(REWARDS, THREE, settings_of("reward", margin=0.5, centring=0.01))
    expected = [
        surprise(float(chosen - rejected) - 0.5) + 0.01 * float(chosen + rejected) ** 2
        for chosen, rejected in zip(CHOSEN, REJECTED, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_margins_by_how_sure_people_were(settings_of: Callable[..., Any]) -> None:
    settings = settings_of("reward", margin=0.25, margin_by_strength=[0.5, 1.0, 3.0])
    found = reward.pair_losses(torch.tensor([1.0, 0.5] * 4), pairs_in(pairs(3, None, 1, 2), CPU), settings)
    assert found.tolist() == pytest.approx([surprise(0.5 - m) for m in (3.0, 0.25, 0.5, 1.0)], rel=1e-6)
    alone = reward.pair_losses(
        torch.tensor([1.0, 0.5]), pairs_in(pairs(3), CPU), settings_of("reward", margin=0.25)
    )
    assert alone.tolist() == pytest.approx([surprise(0.25)], rel=1e-6), "strengths count where they are given"


def test_what_cannot_be_is_refused(settings_of: Callable[..., Any]) -> None:
    for margin in ({"margin": 0.5}, {"margin_by_strength": [0, 0, 1]}):
        with pytest.raises(ConfigError, match="the likelihood of a whole ranking has no margins"):
            settings_of("reward", rankings="plackett_luce", **margin)
    with pytest.raises(ConfigError, match="margin_by_strength"):
        settings_of("reward", margin_by_strength=[1, 2])
    with pytest.raises(ConfigError, match="a temperature is fitted on dev pairs"):
        settings_of("reward", temperature="dev", dev=None)


# --- Rankings ---


def ranked(order: tuple[int, ...], *, weight: float = 1.0) -> Example:
    """Responses 0 .. K-1 of growing length, and the pairs of this order."""
    responses = tuple(
        Response((*range(20 + 9 * place, 22 + 11 * place), 2), True) for place in range(len(order))
    )
    implied = tuple(Pair(*both) for both in itertools.combinations(order, 2))
    return Example((4, 5, 6, 7), responses, weight=weight, pairs=implied, group="r")


def one_by_one(example: Example) -> list[Example]:
    """The same judgments, a pair an example, as they stand in files."""
    return [
        Example(
            example.prompt,
            (example.responses[pair.better], example.responses[pair.worse]),
            weight=example.weight / len(example.pairs),
            pairs=(Pair(0, 1, pair.strength),),
            group=example.group,
        )
        for pair in example.pairs
    ]


@pytest.fixture(scope="module")
def scorer(reward_folder: Path, numerics: Numerics) -> Scorer:
    return load_scorer(str(reward_folder), numerics, bytes_per_parameter=4)


@pytest.fixture
def learned(
    scorer: Scorer, settings_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, float], dict[str, torch.Tensor], int]]:
    """Metrics and gradients of a step that moves nothing, and the tokens that went through the body."""

    def learn(batch: list[Example], **changes: Any) -> tuple[dict[str, float], dict[str, torch.Tensor], int]:
        gradients: dict[str, torch.Tensor] = {}
        tokens: list[int] = []

        def step(learner: loop.Learner) -> dict[str, float]:
            named = learner.model.named_parameters()
            gradients.update({name: p.grad.clone() for name, p in named if p.grad is not None})
            learner.model.zero_grad(set_to_none=True)
            return {}

        monkeypatch.setattr(loop.Learner, "step", step)
        first = scorer.model.base_model.layers[0]
        hook = first.register_forward_hook(
            lambda module, given, output: tokens.append(given[0].shape[0] * given[0].shape[1])
        )
        learner = loop.Learner(scorer.model, OptimizerSettings(), 10)
        metrics = reward.learn(scorer, learner, batch, settings_of("reward", row_tokens=100_000, **changes))
        hook.remove()
        return metrics, gradients, sum(tokens)

    return learn


def test_a_ranking_in_one_row_is_its_pairs_one_by_one(learned: Callable[..., Any]) -> None:
    batch = [ranked((2, 0, 3, 1)), ranked((1, 0)), ranked((0, 2, 1), weight=0.5)]
    apart = [pair for example in batch for pair in one_by_one(example)]
    for changes in ({}, {"margin": 0.3, "centring": 0.1}, {"margin_by_strength": [0.1, 0.2, 0.3]}):
        (metrics, gradients, executed), (expected, before, most) = (
            learned(batch, **changes),
            learned(apart, **changes),
        )
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert gradients.keys() == before.keys() and len(gradients) > 10
        assert max(float(value.abs().max()) for value in gradients.values()) > 1e-3
        for name, value in gradients.items():
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-4, msg=name)
        once = sum(4 + sum(len(one.ids) for one in example.responses) for example in batch)
        assert executed == once, "each prompt and each response once"
        assert most == sum(example.tokens for example in apart) > 2 * once


def test_joined_examples_are_the_ranking_again(learned: Callable[..., Any]) -> None:
    example = ranked((2, 0, 3, 1))
    (again,) = joined(one_by_one(example))
    assert again.weight == pytest.approx(1) and again.tokens == example.tokens
    first, second = learned([example])[0], learned([again])[0]
    assert first == pytest.approx(second, rel=1e-5)


def test_pairs_of_a_ranking_cost_their_mean(settings_of: Callable[..., Any]) -> None:
    example = ranked((2, 0, 3, 1), weight=0.5)
    found = reward.by_pairs(RANKED, [example], pairs_in([example], CPU), settings_of("reward"))
    assert found.item() == pytest.approx(0.5 * ranking_loss(RANKED[[2, 0, 3, 1]]).item(), rel=1e-6)


def test_choices_of_whole_orders_and_pairs_of_others(settings_of: Callable[..., Any]) -> None:
    settings = settings_of("reward", rankings="plackett_luce", centring=0.1)
    whole = ranked((2, 0, 3, 1), weight=0.5)
    tied = Example(whole.prompt, whole.responses[:3], pairs=(Pair(0, 1), Pair(0, 2)), group="t")
    alone = ranked((0, 1))
    shown, rewards = [whole, tied, alone], torch.cat([RANKED, RANKED[:3] + 1, RANKED[:2] - 1])
    found = reward.by_choices(rewards, shown, pairs_in(shown, CPU), settings)
    values = rewards.tolist()

    def level(first: int, places: list[tuple[int, int]]) -> float:
        return 0.1 * sum((values[first + a] + values[first + b]) ** 2 for a, b in places) / len(places)

    expected = 0.5 * plackett_luce_loss(RANKED[[2, 0, 3, 1]]).item()
    expected += 0.5 * level(0, list(itertools.combinations(range(4), 2)))
    expected += (surprise(values[4] - values[5]) + surprise(values[4] - values[6])) / 2
    expected += level(4, [(0, 1), (0, 2)]) + surprise(values[7] - values[8]) + level(7, [(0, 1)])
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_plackett_luce_of_pairs_alone_is_the_pairwise_step(learned: Callable[..., Any]) -> None:
    batch = [ranked((0, 1)), ranked((1, 0))]
    (metrics, gradients, _), (expected, before, _) = learned(batch, rankings="plackett_luce"), learned(batch)
    assert metrics == pytest.approx(expected, rel=1e-5)
    for name, value in gradients.items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-4, msg=name)


# --- The stage ---


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """8 rankings of three and 4 pairs to train on, 4 rankings and 6 pairs for dev."""
    folder, draw = tmp_path_factory.mktemp("rankings"), random.Random(7)
    files = {}
    for name, groups, alone in (("train", 8, 4), ("dev", 4, 6)):
        lines = []
        for number in range(groups + alone):
            texts = ["".join(draw.choices("abcdefxyz", k=draw.randint(1, 9))) + str(k) for k in range(3)]
            implied = list(itertools.combinations(texts, 2)) if number < groups else [texts[:2]]
            for better, worse in implied:
                row = {"prompt": f"{name} {number} ", "a": better, "b": worse, "verdict": {"preferred": "a"}}
                lines.append({**row, "group": f"r{number}"} if number < groups else row)
        files[name] = str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return files


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce"])
def test_a_file_of_rankings_is_learned(
    loss: str,
    rankings: dict[str, str],
    tmp_path: Path,
    settings_of: Callable[..., Any],
    train: Callable[..., Any],
) -> None:
    settings = settings_of(
        "reward", data=rankings["train"], dev=rankings["dev"], rankings=loss, temperature="dev", epochs=4
    )
    rows = train("reward", settings, tmp_path / "run")
    facts = read_facts(tmp_path / "run")
    assert facts["data"]["train"]["examples"] == 12 and facts["data"]["train"]["rankings"] == 8
    assert facts["data"]["train"]["pairs"] == 8 * 3 + 4
    assert [row["step"] for row in rows if "tokens" in row] == list(range(1, 13)), "3 steps of 4, 4 times"
    measured = [row for row in rows if "dev_n" in row]
    assert [row["dev_n"] for row in measured] == [10, 10], "the ranking is the unit"
    found = DevPairs.read(tmp_path / "run")
    assert len(found.margins) == 4 * 3 + 6 and found.owners.max() == 9
    temperature = facts["temperature"]
    if temperature is not None:
        assert fitted_temperature(found.margins) == pytest.approx(1, rel=1e-6)
    # What was saved is what was measured: the margins of the saved model.
    saved = load_scorer(str(tmp_path / "run"), Numerics(CPU, None), bytes_per_parameter=4)
    again = DevPairs.read(tmp_path / "run")
    examples = dev_examples(saved, rankings["dev"])
    scores = reward._scores(saved, examples, settings, "again")
    margins = [
        float(values[pair.better] - values[pair.worse])
        for example, values in zip(examples, scores, strict=True)
        for pair in example.pairs
    ]
    assert again.margins.tolist() == pytest.approx(margins, abs=1e-5)


def dev_examples(scorer: Scorer, file: str) -> list[Example]:
    from trimtab import formats
    from trimtab.data.rankings import encode_rankings
    from trimtab.data.tokens import Limits

    rows = formats.usable(formats.read_comparisons(file))
    return encode_rankings(scorer.codec, rows, Limits(prompt=64, response=12)).examples


def test_a_temperature_is_folded_into_the_head(
    scorer: Scorer, settings_of: Callable[..., Any], tmp_path: Path
) -> None:
    from trimtab.runs.run import open_run

    margins = torch.tensor([3.0, 2.0, -1.0]).double().numpy()
    lengths = torch.tensor([2, 2, 2]).numpy()
    found = DevPairs(margins, torch.arange(3).numpy(), lengths, lengths)
    settings = settings_of("reward", temperature="dev")
    before = scorer.model.score.weight.detach().clone()
    with open_run(tmp_path / "run", "reward", settings, resume=False) as run:
        softer = reward.soften(scorer, found, settings, run)
        temperature = read_facts(tmp_path / "run")["temperature"]
        after = scorer.model.score.weight.detach().clone()
        scorer.model.score.weight.data.copy_(before)
        assert temperature == fitted_temperature(margins) != 1
        torch.testing.assert_close(after * temperature, before)
        assert softer.margins.tolist() == pytest.approx((margins / temperature).tolist())
        right = DevPairs(abs(margins), found.owners, lengths, lengths)
        assert reward.soften(scorer, right, settings, run) is right
        assert read_facts(tmp_path / "run")["temperature"] is None
        assert reward.soften(scorer, found, settings_of("reward"), run) is found
    assert torch.equal(scorer.model.score.weight, before)
    assert scalar.reward_bias(scorer.model) == 0


def test_rankings_are_centred_on_their_best(
    scorer: Scorer, settings_of: Callable[..., Any], tmp_path: Path
) -> None:
    from trimtab.runs.run import open_run

    settings = settings_of("reward")
    examples = [ranked((2, 0, 3, 1)), ranked((1, 0))]
    best = [example.responses[place] for example, place in zip(examples, (2, 1), strict=True)]
    alone = [Example(example.prompt, (one,)) for example, one in zip(examples, best, strict=True)]
    expected = float(torch.cat(reward._scores(scorer, alone, settings, "alone")).mean())
    with open_run(tmp_path / "run", "reward", settings, resume=False) as run:
        reward.centre(scorer, examples, settings, run)
    found, scorer.model.config.reward_bias = scorer.model.config.reward_bias, 0.0
    assert found == pytest.approx(expected, abs=1e-6) and found != 0
    assert read_metrics(tmp_path / "run") == []
