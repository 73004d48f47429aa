"""The real SmolLM2-135M-Instruct: packed against padded, its template's traps, the whole path in short."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimtab import formats
from trimtab.config import read_yaml
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Limits, encode_comparisons
from trimtab.model import bundles
from trimtab.model.device import Numerics
from trimtab.model.load import load_causal
from trimtab.model.policy import Policy, load_policy, response_logprobs
from trimtab.records import Message
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling
from trimtab.runs.run import is_done, read_metrics

pytestmark = pytest.mark.slow

NAME = "smollm2-135m-instruct"
ROOT = Path(__file__).parents[2]
PAIRS = ROOT / "examples" / "hh-harmless" / "comparisons.jsonl.gz"
HELD_OUT = ROOT / "examples" / "hh-harmless" / "held-out.jsonl.gz"


@pytest.fixture(scope="module")
def policy() -> Policy:
    if not bundles.location(NAME).is_dir():
        bundles.get(NAME)
    return load_policy(NAME, Numerics(torch.device("cpu"), None), bytes_per_parameter=4)


def test_packed_rows_agree_with_the_ordinary_forward(policy: Policy) -> None:
    """As far from float64 as plain float32 is: its logits are sums of large products, 2e-5 nats off."""
    rows = formats.usable(formats.read_comparisons(HELD_OUT))[:3]
    examples = encode_comparisons(policy.codec, rows, Limits()).examples
    ordinary = load_causal(NAME, device="cpu", attention="sdpa")
    with torch.no_grad():
        found = response_logprobs(policy.model, pack(examples))
        plain = ordinary_logprobs(ordinary, examples)
        exact = ordinary_logprobs(ordinary.double(), examples)
    ours, theirs = ((one.double() - exact).abs() for one in (found, plain))
    assert 0 < theirs.max() < 5e-5
    assert ours.max() < 1.5 * theirs.max() and ours.mean() < 1.5 * theirs.mean()


def ordinary_logprobs(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Each response behind its prompt in a row of its own, all logits kept."""
    found = []
    for example in examples:
        for response in example.responses:
            ids = torch.tensor([[*example.prompt, *response.ids]])
            logprobs = torch.log_softmax(model(input_ids=ids).logits[0], -1)
            places = torch.arange(len(example.prompt), ids.shape[1])
            found.append(logprobs[places - 1, ids[0, places]])
    return torch.cat(found)


def test_the_template_and_the_stop_token(policy: Policy) -> None:
    codec = policy.codec
    prompt = (Message("user", "What is the capital of France?"),)
    ids, _ = codec.encode_prompt(prompt, 200)
    text = codec.tokenizer.decode(list(ids))
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n")
    response = codec.encode_response(prompt, "Paris.", 64)
    assert response.ids[-1] == codec.stop_id and codec.stop_text == "<|im_end|>"
    assert codec.pad_id != codec.stop_id
    assert codec.tokenizer.decode(list(response.ids)) == "Paris.<|im_end|>"


def test_it_answers_and_stops(policy: Policy) -> None:
    rows = [formats.Row((Message("user", "What is the capital of France?"),), "prompt", 1)]
    from trimtab.data.tokens import encode_prompts

    asked = encode_prompts(policy.codec, rows, Limits()).examples
    sampling = Sampling(max_new=24, temperature=0, stop_ids=(policy.codec.stop_id,))
    (given,) = answer(policy, asked, sampling, [0], name="answers")
    assert given.response.stopped
    assert "Paris" in policy.codec.decode(given.response.ids)


def test_the_whole_path_in_short(policy: Policy, tmp_path: Path) -> None:
    out = tmp_path / "short"
    short = {
        "comparisons": PAIRS,
        "held_out": HELD_OUT,
        "max_prompt": 96,
        "max_response": 24,
        "shares.train": 0.15,
        "shares.judge": 0.12,
        "shares.unused": 0.73,
        "stages.sft.samples": 1,
        "stages.dpo.samples": 1,
        "stages.reward.epochs": 1,
        "stages.judge.epochs": 1,
        "stages.ppo.episodes": 16,
        "stages.ppo.rollouts": 8,
        "stages.ppo.minibatch": 4,
        "stages.ppo.epochs": 1,
        "stages.ppo.dev_prompts": 8,
        "stages.compare.prompts": 12,
    }
    options = [part for key, value in short.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "trimtab", "run", str(ROOT / "configs" / "demo-real.yaml"), *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    names = list(read_yaml(ROOT / "configs" / "demo-real.yaml")["stages"])
    assert all(is_done(out / name) for name in names)
    dpo = [row for row in read_metrics(out / "dpo") if "margin" in row]
    assert dpo[0]["loss"] == pytest.approx(math.log(2), abs=0.02)  # bfloat16 where the hardware has it
    ppo = [row for row in read_metrics(out / "ppo") if "score" in row]
    assert len(ppo) == 2 and ppo[0]["kl"] == pytest.approx(0, abs=0.5)
    report = json.loads((out / "compare" / "report.json").read_text(encoding="utf-8"))
    assert {policy["name"] for policy in report["policies"]} == {"ppo", "dpo", "sft"}
    assert (out / "compare" / "report.html").stat().st_size > 1_000_000
