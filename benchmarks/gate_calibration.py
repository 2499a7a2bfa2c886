"""How often the gate promotes a candidate that is no better, and how often one that is five points better.

    python benchmarks/gate_calibration.py [--campaigns 200] [--model FOLDER]

Simulated: independent items at the sizes that the recipes ship. Real: a tiny model that solves about half of the sums is
champion and candidate at once; both sides answer the same items, drawn anew for every campaign, with sampled completions
of different seeds, so that the two differ by noise alone. Without --model the tiny model is first trained on 1,600
references for 300 steps of cross-entropy. Prints Markdown.
"""

import argparse
import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from opsd_core.calibration import promoted_share, simulated_verdicts
from opsd_core.config import RECIPES, EvaluationConfig, PromotionConfig, resolve
from opsd_core.data.addition import addition_examples
from opsd_core.evaluation import evaluate_policy
from opsd_core.gate import decide
from opsd_core.graders import get_grader
from opsd_core.models import Policy, load_policy
from opsd_core.prompts import PromptBuilder
from opsd_core.statistics import mcnemar_power
from opsd_core.tiny import build_tiny

ACCURACY, CHURN = 0.5, 0.2


def half_trained(folder: Path) -> Policy:
    """The tiny model after supervised training that stops half-way."""
    config = resolve("tiny")
    policy = load_policy(build_tiny(folder), config.model)
    tokenizer, examples = policy.tokenizer, addition_examples(1600, seed=3)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-3)
    generator = random.Random(0)
    for _ in range(300):
        batch = generator.sample(examples, 64)
        texts = [[tokenizer.bos_token_id, *tokenizer.encode(e.question + e.answer)] for e in batch]
        ids = torch.tensor([[*ids, tokenizer.eos_token_id] for ids in texts])
        logits = policy.model(ids[:, :-1]).logits[:, -4:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def real_campaigns(policy: Policy, campaigns: int, promotion: PromotionConfig) -> tuple[int, float]:
    """(promotions, mean accuracy) of null campaigns on the tiny model, at the recipe's evaluation size."""
    config = resolve("tiny")
    builder = PromptBuilder(policy.tokenizer, config.prompts, config.teacher, config.model.chat_template)
    settings = EvaluationConfig(num_samples=1, max_completion_length=4, batch_size=512)
    judge, everything, size = get_grader("exact"), addition_examples(), config.evaluation.num_items
    promoted, accuracy = 0, 0.0
    for campaign in range(campaigns):
        items = random.Random(campaign).sample(everything, size)
        sides = [
            [
                o
                for o in evaluate_policy(policy, items, builder, settings, judge, 2 * campaign + side)
                if o.mode == "sampled"
            ]
            for side in (0, 1)
        ]
        verdict = decide(
            *sides,
            promotion,
            candidate_version=str(campaign),
            champion_version="champion",
            candidate_evaluation="items",
            champion_evaluation="items",
        )
        promoted += verdict.promote
        accuracy += verdict.accuracy_before / campaigns
    return promoted, accuracy


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaigns", type=int, default=200)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it brings
    promotion = PromotionConfig(test="bootstrap")
    error = math.sqrt(promotion.alpha * (1 - promotion.alpha) / given.campaigns)
    print(f"alpha = {promotion.alpha}; {given.campaigns} campaigns, up to {promotion.alpha + 2 * error:.3f} is noise\n")
    print("| campaigns | items | test | promoted when equal | promoted at +5 points | expected power |")
    print("|---|---|---|---|---|---|")
    for recipe in ("tiny", "demo"):
        size = RECIPES[recipe]["evaluation"]["num_items"]
        for test in ("mcnemar", "bootstrap"):
            rules = PromotionConfig(test=test)
            shares = [
                promoted_share(
                    simulated_verdicts(rules, given.campaigns, size, accuracy=ACCURACY, churn=CHURN, gain=gain)
                )[0]
                for gain in (0.0, 0.05)
            ]
            power = mcnemar_power(size, 0.05, CHURN / 2, rules.alpha)
            print(f"| simulated, churn {CHURN} | {size} | {test} | {shares[0]} | {shares[1]} | {power:.3f} |")
    with TemporaryDirectory() as folder:
        policy = load_policy(given.model, resolve("tiny").model) if given.model else half_trained(Path(folder) / "tiny")
        promoted, accuracy = real_campaigns(
            policy.__class__(policy.model.eval(), policy.tokenizer), given.campaigns, promotion
        )
    size = RECIPES["tiny"]["evaluation"]["num_items"]
    print(f"| tiny model at {accuracy:.3f}, sampled twice | {size} | bootstrap | {promoted} | – | – |")


if __name__ == "__main__":
    main()
