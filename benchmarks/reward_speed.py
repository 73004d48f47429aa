"""How fast `trimtab eval reward` scores a file of RewardBench's size: 2,985 rows of realistic length.

Rows are made of real HH-RLHF pairs: the dialogues of neighbouring rows go before each pair's own, as earlier
turns, until a row has at least 190 tokens; whole dialogues make that 300 and more on average. The model is
SmolLM2-135M with a fresh scalar head: what it scores means nothing, how long it takes does.

    python benchmarks/reward_speed.py --pairs ../shared/data/hh-harmless/train.jsonl.gz --out ../reward-speed
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from trimtab import formats
from trimtab.evaluation import reward
from trimtab.formats.rewardbench import BenchmarkRow, read_benchmark
from trimtab.judges.judge import Answer
from trimtab.judges.reward_model import LIMITS, RewardModel, by_prompt, encode_answers
from trimtab.model.device import choose, reuse_freed_memory
from trimtab.model.load import load_tokenizer
from trimtab.model.save import save_model
from trimtab.model.scalar import load_scorer, new_scorer
from trimtab.records import Comparison, Message

MODEL = "smollm2-135m-instruct"
ROWS = 2985
"""RewardBench's."""
SHORTEST = 190
"""Tokens of a row at least."""


def make_rows(pairs: Path, path: Path, *, tokens: int) -> None:
    """Write the file, unless it is there."""
    if path.exists():
        return
    tokenizer = load_tokenizer(MODEL).tokenizer
    records = [row.record for row in formats.usable(formats.read_comparisons(pairs))]
    with path.open("w", encoding="utf-8") as file:
        for index in range(ROWS):
            own = records[index % len(records)]
            turns: list[Message] = list(own.prompt)  # type: ignore[arg-type]
            before = 1
            while len(tokenizer(_text(turns, own))["input_ids"]) < tokens:
                other = records[(index + before) % len(records)]
                turns = [*other.prompt, Message("assistant", other.chosen), *turns]  # type: ignore[list-item]
                before += 1
            prompt = [{"role": turn.role, "content": turn.content} for turn in turns]
            row = {
                "prompt": prompt,
                "chosen": own.chosen,
                "rejected": own.rejected,
                "id": index,
                "subset": "made",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _text(turns: list[Message], own: Comparison) -> str:
    return " ".join([*(turn.content for turn in turns), own.chosen, own.rejected])


def executed_tokens(judge: RewardModel, rows: list[BenchmarkRow]) -> int:
    """Tokens that go through the model: each row's prompt once, both of its responses."""
    answers = [Answer(row.prompt, text) for row in rows for text in row.responses]
    encoded = encode_answers(judge.scorer.codec, answers, LIMITS)
    return sum(one.tokens for one in by_prompt([one for one in encoded if hasattr(one, "responses")]))  # type: ignore[misc]


def main() -> None:
    """Make what is missing, measure, print and write one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=Path, required=True, help="comparisons as chats")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the file, the model and the figure"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="only the first so many rows")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    make_rows(arguments.pairs, arguments.out / "rows.jsonl", tokens=SHORTEST)
    reuse_freed_memory()
    numerics = choose("auto", "auto")
    if not (arguments.out / "model").exists():
        fresh = new_scorer(MODEL, numerics, torch.Generator().manual_seed(0), bytes_per_parameter=4)
        save_model(fresh.model, fresh.codec, arguments.out / "model")
    judge = RewardModel(load_scorer(str(arguments.out / "model"), numerics, bytes_per_parameter=4))
    rows = formats.usable(read_benchmark(arguments.out / "rows.jsonl"))[: arguments.rows]
    tokens = executed_tokens(judge, [row.record for row in rows])
    began = time.perf_counter()
    found = reward.evaluate(judge, rows, seed=0)
    seconds = time.perf_counter() - began
    figure = {
        "rows": len(rows),
        "left out": len(found.left_out),
        "tokens a row": round(tokens / len(rows), 1),
        "seconds": round(seconds, 1),
        "executed tokens a second": round(tokens / seconds),
        "device": numerics.name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (arguments.out / "figure.json").write_text(json.dumps(figure))
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
