"""Where opsd's graders, math-verify and lighteval disagree, and how long a verdict takes.

    python benchmarks/grading_agreement.py [--gsm8k test.jsonl] [--svamp SVAMP.json] [--items N]

Judges the hand-written table of tests/core/graders/grader_table.txt, and completions in the dialects of GSM8K, MATH,
lighteval and open-r1 that are made of the references of the sets given: right ones, and wrong ones with another number.
math-verify runs with its own defaults, lighteval (where it is installed) with the metrics of its tasks gsm8k, math_500 and
mmlu. lighteval asks for another latex2sympy2_extended than math-verify: give it an environment and a run of its own
(--only lighteval). Prints Markdown.
"""

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from opsd_core.data import make_example
from opsd_core.graders import get_grader

TABLE = Path(__file__).parent.parent / "tests/core/graders/grader_table.txt"
RIGHT = {
    "gsm8k, hashes": "{work}\n#### {answer}",
    "gsm8k, sentence": "{work}\nThe answer is {answer}.",
    "gsm8k, currency": "{work}\nThe answer is ${answer}.",
    "gsm8k, bare end": "So the total is {answer}",
    "math, boxed": "{work}\nThe answer is $\\boxed{{{answer}}}$.",
    "math, display": "{work}\nThe final answer is:\n$$\n{answer}\n$$",
    "math, unit": "{work}\nThe area is $\\boxed{{{answer} \\text{{ m}}^2}}$.",
    "lighteval": "{work}\nANSWER: {answer}",
    "lighteval, hope": "{work}\nTherefore, the final answer is: $\\boxed{{{answer}}}$. I hope it is correct.",
    "open-r1": "<think>\n{work}\nIs it \\boxed{{{other}}}?\n</think>\n\n<answer>\n{answer}\n</answer>",
    "open-r1, boxed": "<think>\nThe answer is {other}.\n</think>\n\nThe answer is \\boxed{{{answer}}}.",
}
WRONG = {
    "open thought": "<think>\n{work}\nThe answer is \\boxed{{{answer}}}",
    "thought only": "<think>\nThe answer is {answer}.\n</think>\n\nThe answer is {other}.",
    "list": "{work}\n#### {answer}, {other}",
    "choice of two": "{work}\nThe answer is {answer} or {other}.",
    "expression": "{work}\nThe answer is $\\boxed{{{answer}\\sqrt{{3}}}}$.",
    "power": "{work}\nThe answer is $\\boxed{{{answer}^2}}$.",
    "negative": "{work}\nThe answer is \u2212{answer}.",
    "bare expression": "So the total is {answer} * {other}",
}
Judge = Callable[[str, str], bool]


def judges(only: str) -> dict[str, dict[str, Judge]]:
    """Per name a judge per kind of answer; `only` that one where it is not empty."""
    if only == "lighteval":
        return {"lighteval": lighteval_judges()}
    from math_verify import parse, verify

    def math_verify(gold: str, text: str) -> bool:
        return bool(verify(parse(f"${gold}$"), parse(text)))

    def ours(name: str) -> Judge:
        return lambda gold, text: get_grader(name)(make_example("question", gold), text).correct

    found = {
        "opsd": {name: ours(name) for name in ("math", "numeric", "choice")},
        "math-verify": {"math": math_verify, "numeric": math_verify},
    }
    try:
        found["lighteval"] = lighteval_judges()
    except ImportError as error:
        print(f"lighteval is left out: {error}", file=sys.stderr)
    return {only: found[only]} if only else found


def lighteval_judges() -> dict[str, Judge]:
    """The metrics of lighteval's tasks gsm8k, math_500 and, by letters, mmlu."""
    from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric
    from lighteval.metrics.utils import extractive_match_utils as targets
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc
    from lighteval.utils.language import Language

    expression, latex = targets.ExprExtractionConfig(), targets.LatexExtractionConfig()
    boxed = targets.LatexExtractionConfig(boxed_match_priority=0)
    letters = targets.IndicesExtractionConfig(prefix_for_extraction="NativeLetters")

    def judge(gold_targets, text_targets, choices: bool = False, precision: int = 6) -> Judge:
        metric = MultilingualExtractiveMatchMetric(
            language=Language.ENGLISH,
            gold_extraction_target=gold_targets,
            pred_extraction_target=text_targets,
            precision=precision,
        )

        def says(gold: str, text: str) -> bool:
            gold = f"${gold.strip('$')}$" if latex in gold_targets else gold  # its tasks give formulas with delimiters
            names = list("ABCDEFGHIJ") if choices else [gold]
            document = Doc(query="", choices=names, gold_index=names.index(gold) if gold in names else 0)
            return gold in names and bool(
                metric.compute(document, ModelResponse(text=[text], text_post_processed=[text]))
            )

        return says

    return {
        "numeric": judge([expression], [expression, boxed], precision=5),
        "math": judge([expression, latex], [expression, latex]),
        "choice": judge([letters], [letters], choices=True),
    }


def table() -> list[tuple[str, str, bool, str, str]]:
    """(grader, dialect, right, gold, text) of the table's clear judgements that all judges know."""
    rows, graders, dialect = [], [], ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("["):
            names, _, dialect = line.strip("[]").partition(" : ")
            graders = [name for name in names.split() if name in ("math", "numeric", "choice")]
        elif (parts := line.split(" | ", 2)) and parts[0] in ("right", "wrong"):
            gold, text = (part.strip().replace("⏎", "\n") for part in parts[1:])
            rows += [(name, dialect, parts[0] == "right", gold, text) for name in graders]
    return rows


def completions(gold: str, work: str) -> list[tuple[str, bool, str]]:
    """(dialect, right, text) made of one item's reference."""
    other = gold + "7"
    fields = {"answer": gold, "work": work, "other": other}
    rows = [(name, True, form.format(**fields)) for name, form in RIGHT.items()]
    rows += [
        (f"{name}: other number", False, form.format(answer=other, work=work, other=gold))
        for name, form in RIGHT.items()
    ]
    return rows + [
        (name, False, form.format(**fields)) for name, form in WRONG.items() if gold.strip("0.") not in ("", "1")
    ]


def references(gsm8k: Path | None, svamp: Path | None, items: int | None) -> list[tuple[str, str, str]]:
    """(set, gold, work) of the sets given."""
    rows = []
    for line in gsm8k.read_text().splitlines() if gsm8k else []:
        work, _, gold = json.loads(line)["answer"].rpartition("####")
        rows.append(("gsm8k", gold.strip(), work.strip()))
    for entry in json.loads(svamp.read_text()) if svamp else []:
        rows.append(("svamp", str(entry["Answer"]), f"{entry['Equation']} is what is asked."))
    return rows[:: max(1, len(rows) // items)] if items else rows


def print_counts(title: str, errors: dict[str, Counter], totals: Counter) -> None:
    """One table: per dialect and expected verdict how many each judge gets wrong."""
    print(f"\n### {title}\n\n| dialect | expected | pairs | " + " | ".join(f"{name} errs" for name in errors) + " |")
    print("|---|---|---|" + "---|" * len(errors))
    for key in totals:
        dialect, right = key
        print(f"| {dialect} | {'right' if right else 'wrong'} | {totals[key]} | ", end="")
        print(" | ".join(str(counter[key]) for counter in errors.values()) + " |")
    print(f"| all | | {totals.total()} | " + " | ".join(str(counter.total()) for counter in errors.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--svamp", type=Path)
    parser.add_argument("--items", type=int, help="about how many items of the sets; default all")
    parser.add_argument("--list", action="store_true", help="list every disagreement on the hand-written table")
    parser.add_argument("--only", default="", choices=["", "opsd", "math-verify", "lighteval"], help="one judge alone")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = judges(options.only)
    errors: dict[str, Counter] = {name: Counter() for name in found}
    totals: Counter = Counter()
    listed = []
    for grader, dialect, right, gold, text in table():
        key = f"{grader}: {dialect}", right
        totals[key] += 1
        says = {name: kinds[grader](gold, text) if grader in kinds else right for name, kinds in found.items()}
        for name, verdict in says.items():
            errors[name][key] += verdict != right
        if set(says.values()) != {right}:
            wrong = ", ".join(name for name, verdict in says.items() if verdict != right)
            listed.append((grader, "right" if right else "wrong", gold, text.replace("\n", "⏎"), wrong))
    print_counts("The hand-written table, clear judgements", errors, totals)
    rows = [
        (f"{source}: {dialect}", right, gold, text)
        for source, gold, work in references(options.gsm8k, options.svamp, options.items)
        for dialect, right, text in completions(gold, work)
    ]
    errors, totals = {name: Counter() for name in found}, Counter()
    seconds: Counter = Counter()
    for dialect, right, gold, text in rows:
        totals[dialect, right] += 1
        for name, kinds in found.items():
            start = time.perf_counter()
            errors[name][dialect, right] += kinds["math"](gold, text) != right
            seconds[name] += time.perf_counter() - start
    if rows:
        print_counts("Completions made of the sets' references", errors, totals)
        print("\n| judge | milliseconds a verdict |\n|---|---|")
        for name in found:
            print(f"| {name} | {1e3 * seconds[name] / len(rows):.2f} |")
    if options.list:
        print("\n### Every disagreement on the table\n\n```")
        for row in listed:
            print(" | ".join(row))
        print("```")


if __name__ == "__main__":
    main()
