"""The end of a study: outcomes gathered, compared, and shown as one page and the same numbers as JSON."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from opsd_core.answers import Answers, Side
from opsd_core.answers import render as render_answers
from opsd_core.digest import digest
from opsd_core.records.examples import read_examples
from opsd_core.records.outcomes import ItemOutcome, read_outcomes
from opsd_core.records.sums import means_along
from opsd_core.study.arms import find_arm
from opsd_core.study.bites import changed_settings
from opsd_core.study.items import items_text
from opsd_core.study.report import render
from opsd_core.study.sets import SETS
from opsd_core.study.tables import ArmData, StudyData, study_numbers
from opsd_core.study.words import sentences
from opsd_core.teacher.scoring import divergence_along
from opsd_core.training.monitors import token_means
from tasks.context import local, produce, tracker
from tasks.loaded import rollouts_of, targets_of
from tasks.refs import ANSWERS_PAGE
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.evaluate import evaluate
from tasks.study.refs import Checkpoint, Measured, Study, Training

PAGE, NUMBERS, ITEMS = "study.html", "study.json", "items.jsonl"


@task(name="report-study", **STAGE)
def report_study(study: Study, trained: Sequence[Training], measured: Sequence[Measured]) -> str:
    """`study.html`, `study.json` and `items.jsonl` at the MLflow parent run, a link in Prefect; returns the sentences."""
    data = _gather(study, trained, measured)
    numbers = study_numbers(data) | {"study": study.config.model_dump(mode="json"), "study_id": study.id}
    subtitle = (
        f"{study.base.data.source} with {study.base.model.source}; {study.base.iterations} iterations of "
        f"{study.base.optimizer.num_steps} steps; {len(study.config.seeds)} seeds; revision {study.git_revision:.12}"
    )
    html = render(study.config.name, subtitle, data, numbers, _positions(trained), f"study {study.id}")
    lines = sentences(numbers)
    text = json.dumps(numbers | {"sentences": lines}, indent=1, sort_keys=True)

    def write(folder: Any) -> dict[str, Any]:
        (folder / PAGE).write_text(html)
        (folder / NUMBERS).write_text(text)
        return {"name": study.config.name}

    arms = sorted((m.arm, m.seed, m.test.uri, sorted((name, ref.uri) for name, ref in m.sets.items())) for m in measured)
    produce("study-reports", {"study": study.id, "measured": arms, "page": digest(html)}, write)
    experiment = tracker()
    experiment.log_text(study.run_id, html, PAGE)
    experiment.log_text(study.run_id, _answers(study, data, lines), ANSWERS_PAGE)
    experiment.log_text(study.run_id, text, NUMBERS)
    experiment.log_text(study.run_id, items_text(data), ITEMS)
    experiment.log_metrics(study.run_id, [(0, _headline(numbers))])
    experiment.end_run(study.run_id, "FINISHED")
    link, answers = (experiment.artifact_url(study.run_id, page) for page in (PAGE, ANSWERS_PAGE))
    key = artifact_key(f"opsd-{study.config.name}")
    create_link_artifact(link=link, link_text=f"{study.config.name}: {PAGE}", key=f"{key}-report")
    create_link_artifact(link=answers, link_text=f"{study.config.name}: {ANSWERS_PAGE}", key=f"{key}-answers")
    create_markdown_artifact(
        f"# {study.config.name}\n\n" + "\n".join(f"- {line}" for line in lines)
        + f"\n\n[The whole report]({link}) · [what every arm answers]({answers})\n",
        key=f"{key}-words",
    )
    where = [f"The whole report: {link} (its numbers: {NUMBERS}; item by item: {ITEMS})", f"What every arm answers: {answers}"]
    return "\n".join([*lines, *where])


def _answers(study: Study, data: StudyData, lines: Sequence[str]) -> str:
    """The page that has every arm's answers to the test items next to the base model's, each arm's first seed."""
    measured = [(arm, min(arm.outcomes)) for arm in data.arms.values() if arm.outcomes]
    sides = [Side(arm.name if arm.role == "base" else f"{arm.name}, seed {seed}", arm.outcomes[seed]) for arm, seed in measured]
    facts = [("test items", f"{len(data.examples):,}"), ("seeds", ", ".join(map(str, study.config.seeds)))]
    links = [("MLflow run", tracker().run_url(study.run_id))]
    title = f"{study.config.name}: what every arm answers"
    if len(sides) < 2:
        sides = sides * 2  # no arm could be trained: the base model next to itself
    shown = {"sentences": lines, "facts": facts, "links": links, "columns": study.base.evaluation.slices}
    return render_answers(Answers(title, data.examples, sides, **shown))


def _headline(numbers: dict[str, Any]) -> dict[str, float]:
    accuracy = {f"accuracy/{arm['name']}": arm["metrics"].get("eval/accuracy") for arm in numbers["arms"]}
    return {name: value for name, value in accuracy.items() if value is not None}


def _gather(study: Study, trained: Sequence[Training], measured: Sequence[Measured]) -> StudyData:
    outcomes: dict[str, dict[int, list[ItemOutcome]]] = defaultdict(dict)
    metrics: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    sets: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(dict)
    for m in measured:
        outcomes[m.arm][m.seed] = read_outcomes(local(m.test) / "outcomes.parquet")
        metrics[m.arm][m.seed] = m.metrics
        sets[m.arm][m.seed] = {
            name: json.loads((local(ref) / "values.json").read_text())["values"] for name, ref in m.sets.items()
        }
    arms = {}
    for name in ("base", *study.config.trained_arms):
        mine = {t.seed: t for t in trained if t.arm == name}
        arms[name] = ArmData(
            name=name,
            title=find_arm(name).title,
            role=find_arm(name).role,
            outcomes=outcomes[name],
            metrics=metrics[name],
            sets=sets[name],
            costs={seed: t.costs for seed, t in mine.items() if t.checkpoints},
            curves={
                seed: [point.validation["eval/accuracy"] for point in t.checkpoints]
                for seed, t in mine.items()
                if t.checkpoints
            },
            rates={seed: t.rate for seed, t in mine.items()},
            chosen={seed: t.chosen.iteration for seed, t in mine.items() if t.chosen},
            failed={seed: t.failed for seed, t in mine.items() if t.failed},
            changes=_changes(study, name, list(mine.values())),
            bites={seed: token_means([(1, _bites(p)) for p in t.checkpoints]) for seed, t in mine.items() if t.checkpoints},
        )
    items = {o.example_id for o in next(iter(outcomes["base"].values()))}
    examples = [e for e in read_examples(local(study.data) / "test.parquet") if e.id in items]
    start = evaluate.fn(study.measuring(num_samples=0), study.data, study.initial, "base")
    return StudyData(
        arms=arms,
        examples=examples,
        set_titles={name: (SETS[name].title, SETS[name].role) for name in study.config.sets},
        confidence=study.config.confidence,
        start_accuracy=start.metrics.get("eval/accuracy", 0.0),
    )


def _changes(study: Study, arm: str, mine: Sequence[Training]) -> dict[str, tuple[Any, Any]]:
    """What the arm changes in the study's recipe; nothing for base."""
    return changed_settings(study.base, study.arm_config(arm, mine[0].seed, mine[0].rate)) if mine else {}


def _bites(point: Checkpoint) -> dict[str, float]:
    return {name: value for name, value in point.training.items() if name.startswith("bite/")}


def _positions(trained: Sequence[Training]) -> dict[str, dict[str, list[float]]]:
    """Means per completion position over the last iteration's rollouts of each arm's first seed.

    kl: KL(student || teacher) of the recorded distributions, as `divergence_along`.
    """
    curves: dict[str, dict[str, list[float]]] = {"entropy": {}, "kl": {}}
    for training in trained:
        if not training.checkpoints or training.arm in curves["entropy"]:
            continue
        last = training.checkpoints[-1]
        rollouts, scored = rollouts_of(*last.shards), targets_of(*last.targets).by_key()
        curves["entropy"][training.arm] = means_along(r.own(r.entropy_T) for r in rollouts.light)
        if scored:
            gaps = (r.own(divergence_along(r, scored[r.key])) for r in rollouts if r.key in scored)
            curves["kl"][training.arm] = means_along(gaps)
    return curves
