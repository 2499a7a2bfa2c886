"""Answers of any version of a model: its iteration's page, or its answers next to those of another version."""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from opsd_core.answers import Answers, Side, render
from opsd_core.answers.sides import Item, items_of
from opsd_core.errors import ConfigError, IntegrityError
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import read_outcomes
from tasks.context import lineage, local, produce, store, tracker
from tasks.loaded import stored_examples
from tasks.refs import ANSWERS_PAGE as PAGE
from tasks.refs import Ref
from tasks.storage.artifacts import describe
from tasks.tracking.registry import Version


class Measured(NamedTuple):
    """A stored evaluation of one version."""

    version: int
    evaluation: Ref
    data: Ref


def answers_of(name: str, version: int | None = None, against: int | None = None) -> Path:
    """`answers.html` of a version of model `name`, a verified local copy to be read only.

    version: None = the newest one that was measured. against: the version to show next to it; None = the champion that it was
    compared with, on the page that its iteration made. ConfigError when there is no such version or no stored evaluation of one.
    """
    versions = tracker().versions(name)
    chosen = chosen_version(name, versions, version)
    if against is None and "opsd.answers" in chosen.tags:
        return local(chosen.tags["opsd.answers"]) / PAGE
    sides = measured_sides(name, versions, chosen, against)
    identity = {"evaluations": [side.evaluation.content for side in sides], "versions": [s.version for s in sides], "name": name}
    artifact, _ = produce("answers", identity, partial(_write, name, sides))
    return local(artifact.uri) / PAGE


def answers_table(name: str, version: int | None = None, against: int | None = None) -> list[dict[str, Any]]:
    """One row per held-out item: id, question, reference, and of both versions right, extracted answer, text and tokens.

    Arguments and errors are those of `answers_of`; `pandas.DataFrame(answers_table("demo"))` is a table of them.
    """
    versions = tracker().versions(name)
    sides = measured_sides(name, versions, chosen_version(name, versions, version), against)
    return [_row(item) for item in items_of(*records_of(sides))]


def accuracies(name: str) -> dict[int, float]:
    """Held-out accuracy of every version of a model that was measured against answers; of lost records none."""
    found: dict[int, float] = {}
    for entry in filter(_is_measured, tracker().versions(name)):
        with suppress(IntegrityError):
            known = lineage(entry.tags)
            for number, evaluation in ((known.get("champion_version"), "champion_evaluation"), (entry.version, "evaluation")):
                metrics = describe(store(), known[evaluation]).summary["metrics"] if known.get(evaluation) else {}
                if number and "eval/accuracy" in metrics:
                    found[int(number)] = metrics["eval/accuracy"]
    return found


def _row(item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.example.id, "question": item.example.question, "reference": item.example.answer}
    for side, answer in zip(("before", "after"), item.answers, strict=True):
        row |= {
            f"{side}_right": answer.correct,
            f"{side}_answer": answer.extracted,
            f"{side}_text": answer.text,
            f"{side}_tokens": answer.num_tokens,
        }
    return row


def chosen_version(name: str, versions: list[Version], number: int | None) -> Version:
    """The version of this number, or the newest, that a campaign measured. ConfigError naming those there are."""
    measured = [entry for entry in versions if _is_measured(entry)]
    found = [entry for entry in measured if number in (None, entry.version)]
    if not found:
        there = ", ".join(str(entry.version) for entry in measured) or "none"
        which = "version" if number is None else f"version {number}"
        raise ConfigError(
            f"model {name!r} has no {which} that a campaign measured; it has {there}. Give a version that an iteration made: an "
            "iteration's version is there when the iteration has ended."
        )
    return found[-1]


def _is_measured(entry: Version) -> bool:
    return "opsd.lineage" in entry.tags or "opsd.evaluation" in entry.tags


def measured_sides(name: str, versions: list[Version], chosen: Version, against: int | None) -> list[Measured]:
    """The evaluations of `against`, or of what the version was compared with, and of the version. ConfigError without one."""
    other = against if against is not None else chosen.tags.get("gate.champion") or lineage(chosen.tags).get("parent_version")
    if not other:
        raise ConfigError(f"version {chosen.version} of {name!r} was compared with nothing. Give the version to compare it with.")
    return [_measured(name, versions, int(other)), _measured(name, versions, chosen.version)]


def _measured(name: str, versions: list[Version], number: int) -> Measured:
    """The evaluation of a version: its own iteration's, or one as the champion of another."""
    if number not in [entry.version for entry in versions]:
        raise ConfigError(f"model {name!r} has no version {number}; it has {', '.join(str(v.version) for v in versions)}.")
    for entry in sorted(filter(_is_measured, versions), key=lambda entry: entry.version != number):
        known = lineage(entry.tags)
        if entry.version == number:
            return Measured(number, Ref(uri=known["evaluation"]), Ref(uri=known["data"]))
        if str(known.get("champion_version")) == str(number):
            return Measured(number, Ref(uri=known["champion_evaluation"]), Ref(uri=known["data"]))
    raise ConfigError(
        f"no evaluation of version {number} of {name!r} is known: no iteration made it or compared a candidate with it. "
        "Compare versions that campaigns measured."
    )


def records_of(sides: list[Measured]) -> tuple[list[Example], list[Side]]:
    """The held-out items, and the outcomes of both sides."""
    examples = stored_examples(sides[-1].data, "validation")
    return examples, [Side(f"version {s.version}", read_outcomes(local(s.evaluation) / "outcomes.parquet")) for s in sides]


def _write(name: str, sides: list[Measured], folder: Path) -> dict[str, Any]:
    examples, shown = records_of(sides)
    answered = {outcome.example_id for outcome in shown[-1].outcomes}
    answers = Answers(
        title=f"{name}: version {sides[0].version} and version {sides[1].version}",
        examples=examples,
        sides=shown,
        links=[(f"version {s.version}", tracker().model_url(name, s.version)) for s in sides],
        labelled=any(example.answer for example in examples if example.id in answered),
    )
    (folder / PAGE).write_text(render(answers))
    (folder / "versions.json").write_text(json.dumps([side.version for side in sides]))
    return {"versions": [side.version for side in sides]}
