"""What the numbers of a training run look like when it goes well, and where that is known from.

One row a metric: the range it usually stays in, in its own unit, and the source of that range. A value
outside is a reason to look, not a verdict. Reports draw the range behind the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """The usual range of one metric of one stage."""

    stage: str
    metric: str
    """As it is called in metrics.jsonl."""
    low: float = -inf
    high: float = inf
    meaning: str
    """What a value outside says, in one sentence."""
    source: str

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"{self.stage}/{self.metric}: the range {self.low} to {self.high} is empty")

    @property
    def text(self) -> str:
        """`usually 0.0 to 0.3`, `usually below 0.69`."""
        if self.low == -inf:
            return f"usually below {self.high:.2g}"
        return (
            f"usually above {self.low:.2g}"
            if self.high == inf
            else f"usually {self.low:.2g} to {self.high:.2g}"
        )

    def contains(self, value: float) -> bool:
        """Whether the value is nothing to look at, the ends included."""
        return self.low <= value <= self.high


LN2 = 0.6931471805599453
_EQUATION = "docs/math.md: "
_DEFAULTS = "Huang et al. 2024, arXiv:2403.17031, reference runs"

RANGES: tuple[Healthy, ...] = (
    Healthy(
        stage="reward",
        metric="loss",
        high=LN2,
        meaning="above ln 2 the reward model ranks worse than a coin that knows it is one",
        source=_EQUATION + "#bradley-terry",
    ),
    Healthy(
        stage="reward",
        metric="accuracy",
        low=0.5,
        high=0.95,
        meaning="below a half it learns nothing; near 1 on single judgments it learns the pairs by heart: "
        "people agree with each other on 63 to 77 %",
        source="labelers' agreement in Ouyang et al. 2022, arXiv:2203.02155, and Stiennon et al. 2020, "
        "arXiv:2009.01325",
    ),
    Healthy(
        stage="dpo",
        metric="loss",
        high=LN2,
        meaning="above ln 2 the policy prefers what people rejected, measured against the reference",
        source=_EQUATION + "#dpo",
    ),
    Healthy(
        stage="dpo",
        metric="margin",
        low=0.0,
        meaning="below 0 the rejected responses gained on the chosen ones",
        source=_EQUATION + "#dpo",
    ),
    Healthy(
        stage="dpo",
        metric="accuracy",
        low=0.5,
        high=0.95,
        meaning="below a half rewards rank against people, or tie as at the first step; near 1 the pairs are "
        "learned by heart: people agree with each other on 63 to 77 %",
        source="labelers' agreement in Ouyang et al. 2022, arXiv:2203.02155, and Stiennon et al. 2020, "
        "arXiv:2009.01325",
    ),
    Healthy(
        stage="dpo",
        metric="dev_kl",
        high=15.0,
        meaning="the answers have gone so far from where they began that the pairs say little about them",
        source="Rafailov et al. 2023, arXiv:2305.18290, figure 2; over-optimisation at low beta: Rafailov et "
        "al. 2024, arXiv:2406.02900",
    ),
    Healthy(
        stage="ppo",
        metric="kl",
        low=-0.5,
        high=15.0,
        meaning="below 0 by more than noise, sampling and training disagree on the policy; far above, the "
        "proxy is being exploited",
        source="Gao et al. 2022, arXiv:2210.10760; Rafailov et al. 2023, arXiv:2305.18290, figure 2",
    ),
    Healthy(
        stage="ppo",
        metric="stopped",
        low=0.5,
        meaning="most responses run into the length limit, so ends are not learned and not scored",
        source="Huang et al. 2024, arXiv:2403.17031, the EOS trick",
    ),
    Healthy(
        stage="ppo",
        metric="clip_fraction",
        high=0.3,
        meaning="the steps are too large for the rollouts that they learn from: lower the rate or the epochs",
        source=_DEFAULTS + " stay near 0.07",
    ),
    Healthy(
        stage="ppo",
        metric="approximate_kl",
        high=0.1,
        meaning="one update moves the policy too far",
        source=_DEFAULTS + " stay near 0.01",
    ),
    Healthy(
        stage="ppo",
        metric="explained_variance",
        low=0.0,
        meaning="below 0 the value model predicts worse than a constant would",
        source=_EQUATION + "#value-loss",
    ),
    Healthy(
        stage="ppo",
        metric="first_ratio_error",
        high=1e-2,
        meaning="the first ratio of an update is not 1: the policy that is trained is not the one that was "
        "scored",
        source=_EQUATION + "#ppo",
    ),
)


def healthy(stage: str, metric: str) -> Healthy | None:
    """The usual range of a stage's metric, where one is known."""
    return next((row for row in RANGES if (row.stage, row.metric) == (stage, metric)), None)
