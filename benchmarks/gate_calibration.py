"""How often a campaign promotes a candidate that is no better, and how often one that is five points better.

    python benchmarks/gate_calibration.py [--campaigns 200] [--model FOLDER]
    python benchmarks/gate_calibration.py --guards      # the guards alone: half a minute; benchmarks/gate_calibration.md

Campaigns have as many iterations as their recipe, and promote when one of them does. Simulated: independent items at the
sizes that the recipes ship. Real: a tiny model that solves about half of the sums is champion and every candidate at once;
all answer the same items, drawn afresh for every campaign, with sampled completions of different seeds, so that they differ
by noise alone. Without --model the tiny model is first trained on 1,600
references for 300 steps of cross-entropy. Prints Markdown.
"""

import argparse
import math
import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gate_guards import tables

from opsd_core.config import EvaluationConfig, PromotionConfig, resolve
from opsd_core.data.addition import addition_examples
from opsd_core.graders import get_grader
from opsd_core.judgement.calibration import promoting, simulated_campaigns
from opsd_core.judgement.evaluation import evaluate_policy
from opsd_core.judgement.gate import decide, level
from opsd_core.judgement.statistics import mcnemar_power
from opsd_core.models.policy import Policy, load_policy
from opsd_core.models.tiny import build_tiny
from opsd_core.prompts.builder import PromptBuilder

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
    """(campaigns that promote, mean accuracy) on the tiny model, with the recipe's iterations and evaluation size."""
    config = resolve("tiny")
    builder = PromptBuilder.of(policy.tokenizer, config)
    settings = config.model_copy(update={"evaluation": EvaluationConfig(num_samples=1, max_completion_length=4)})
    judge, everything, size = get_grader("exact"), addition_examples(), config.evaluation.num_items
    promoted, accuracy = 0, 0.0
    for campaign in range(campaigns):
        items = random.Random(campaign).sample(everything, size)
        before, *candidates = [
            [
                o
                for o in evaluate_policy(
                    policy,
                    items,
                    builder,
                    judge,
                    settings.model_copy(update={"seed": (config.iterations + 1) * campaign + side}),
                )
                if o.mode == "sampled"
            ]
            for side in range(config.iterations + 1)
        ]
        verdicts = [
            decide(
                after,
                before,
                promotion,
                candidate_version=f"{campaign}.{iteration}",
                champion_version="champion",
                candidate_evaluation="items",
                champion_evaluation="items",
                iterations=config.iterations,
            )
            for iteration, after in enumerate(candidates)
        ]
        promoted += any(verdict.promote for verdict in verdicts)
        accuracy += verdicts[0].accuracy_before / campaigns
    return promoted, accuracy


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaigns", type=int, default=200)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--guards", action="store_true", help="coverage and power of guards, and slow erosion, alone")
    given = parser.parse_args()
    if given.guards:
        print("\n".join(tables()))
        return
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it brings
    promotion = PromotionConfig(test="bootstrap")
    error = math.sqrt(promotion.alpha * (1 - promotion.alpha) / given.campaigns)
    print(f"alpha = {promotion.alpha}; {given.campaigns} campaigns, up to {promotion.alpha + 2 * error:.3f} is noise\n")
    print(
        "| campaigns | items | iterations | test | promote when equal | promote at +5 points | one decision's power |"
    )
    print("|---|---|---|---|---|---|---|")
    for recipe in ("tiny", "demo"):
        config = resolve(recipe)
        size, iterations = config.evaluation.num_items, config.iterations
        for test in ("mcnemar", "bootstrap"):
            rules = PromotionConfig(test=test)
            of = partial(
                simulated_campaigns, rules, given.campaigns, size, accuracy=ACCURACY, churn=CHURN, iterations=iterations
            )
            equal, better = (promoting(of(gain=gain))[0] for gain in (0.0, 0.05))
            power = mcnemar_power(size, 0.05, CHURN / 2, level(rules, iterations))
            print(f"| simulated, churn {CHURN} | {size} | {iterations} | {test} | {equal} | {better} | {power:.3f} |")
    with TemporaryDirectory() as folder:
        policy = load_policy(given.model, resolve("tiny").model) if given.model else half_trained(Path(folder) / "tiny")
        promoted, accuracy = real_campaigns(
            policy.__class__(policy.model.eval(), policy.tokenizer), given.campaigns, promotion
        )
    tiny = resolve("tiny")
    print(
        f"| tiny model at {accuracy:.3f}, sampled | {tiny.evaluation.num_items} | {tiny.iterations} | bootstrap "
        f"| {promoted} | – | – |"
    )


if __name__ == "__main__":
    main()
