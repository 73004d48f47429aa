"""The model card: what a run was made from, how, what it measured, and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.config import read_yaml
from trimtab.runs.files import write_text
from trimtab.runs.run import read_facts, read_metrics

_STORY = {
    "sft": "A language model fine-tuned on demonstrations: the loss counts response tokens only.",
    "reward": "A reward model: it scores a response at its last token, as people's comparisons taught it "
    "(Bradley-Terry). The reward is the score less `reward_bias` of config.json. trimtab takes it off; other "
    "loaders (transformers' AutoModelForSequenceClassification, vLLM) give the score without that: the same "
    "ranking from another zero. They must read the text up to and with the stop token that ends the "
    "response: what a chat template writes after it is not to be scored.",
    "dpo": "A language model trained on comparisons with direct preference optimization.",
    "ppo": "A language model trained with PPO against a reward model, with a KL penalty.",
}
_ENSEMBLE = (
    "This run is an ensemble of {count}: `members/1`, `members/2`, ... are reward models of their own, with "
    "model cards of their own. trimtab's judges take the mean of their rewards."
)
_ADAPTER = (
    "The folder `model/` holds a LoRA adapter to the model that it was trained from (the first line below): "
    "peft loads it, transformers too, and `trimtab merge` makes a model of its own of both."
)
_LIMITS = (
    "It has learned from this data alone, with its mistakes, its taste and its gaps.",
    "A reward model's score is a proxy for what people want; a policy trained against it can earn the "
    "score without earning the approval.",
    "Safety has not been evaluated. Do not rely on it where a wrong answer does harm.",
)


def write_card(folder: Path) -> None:
    """Write README.md of a run folder from its own files."""
    facts, rows, settings = read_facts(folder), read_metrics(folder), read_yaml(folder / "config.yaml")
    stage = str(facts["stage"])
    parts = [
        f"# {folder.name}",
        _STORY[stage],
        *([_ADAPTER] if settings.get("lora") else []),
        *([_ENSEMBLE.format(count=settings["members"])] if settings.get("members", 1) > 1 else []),
        "## Made from",
        _table(("what", "source", "SHA-256"), _sources(facts)),
        "## Measured",
        _table(("metric", "before", "after"), _measured(rows)) if rows else "Nothing was measured.",
        "## Cost",
        _cost(facts),
        "## Settings",
        _table(("setting", "value"), list(_flat(settings))),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _LIMITS),
    ]
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")


def _sources(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    parents = [
        (role, str(parent["source"]), str(parent["weights_sha256"])[:16])
        for role, parent in facts.get("parents", {}).items()
    ]
    data = [
        (name, f"{fact['source']} ({fact['examples']} examples)", str(fact["sha256"])[:16])
        for name, fact in facts.get("data", {}).items()
    ]
    return [*parents, *data]


def _measured(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """First and last value of each number that was logged on dev data, or else in training."""
    numbers = [(name, value) for row in rows for name, value in row.items()]
    names = list(dict.fromkeys(name for name, value in numbers if isinstance(value, int | float)))
    dev = [
        name
        for name in names
        if name.startswith("dev_") and not name.endswith(("_low", "_high", "_n", "_change"))
    ]
    shown = dev or [name for name in ("loss", "score", "kl") if name in names]
    return [(name, *_first_and_last(rows, name)) for name in shown]


def _first_and_last(rows: list[dict[str, Any]], name: str) -> tuple[str, str]:
    having = [row for row in rows if isinstance(row.get(name), int | float)]
    return _value(having[0], name), _value(having[-1], name)


def _value(row: Mapping[str, Any], name: str) -> str:
    text = f"{row[name]:.3f}"
    if f"{name}_low" in row:
        text += f" [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
    return text


def _cost(facts: Mapping[str, Any]) -> str:
    cost = facts["cost"]
    return (
        f"{cost['wall_s']:.0f} s of wall time, {cost['cpu_s']:.0f} s of processor time, "
        f"{cost['peak_memory_bytes'] / 1e9:.1f} GB of memory at most, "
        f"on {facts.get('device', 'an unknown device')}."
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for key, value in tree.items():
        rows += (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, str(value))]
        )
    return rows


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
