"""Does self-distillation help this model on this data, compared with what else one could do, at what cost?

prefect deployment run opsd/study -p recipe=tiny --watch
prefect deployment run opsd/study -p recipe=tiny -p 'arms=["base","opsd","null"]' -p 'seeds=[0,1]'
"""

from typing import Annotated, Any, Literal

from prefect.runtime import flow_run
from pydantic import Field

from flows.parameters import flow
from opsd_core.study import STUDIES, StudyConfig, resolve_study
from tasks.exclusive import one_campaign
from tasks.runtime.side_by_side import side_by_side
from tasks.stages.prepare import preflight
from tasks.study.arm import train_arm
from tasks.study.open import measure_arm, open_study
from tasks.study.refs import Study, Training
from tasks.study.report import report_study

StudyName = Literal[*sorted(STUDIES)]


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    return f"study-{parameters.get('name') or parameters['recipe']}"


@flow(name="opsd", flow_run_name=_run_name, log_prints=True)
def study(
    recipe: StudyName = "tiny",
    name: str | None = None,
    arms: list[str] | None = None,
    seeds: list[int] | None = None,
    rates: dict[str, list[float]] | None = None,
    separate_teacher: str | None = None,
    test_items: Annotated[int | None, Field(ge=2)] = None,
    test_samples: Annotated[int | None, Field(ge=0, le=256)] = None,
    sets: list[str] | None = None,
    side: Annotated[int, Field(ge=1, le=64)] = 1,
    overrides: dict[str, Any] = {},  # noqa: B006
) -> str:
    """Arms times seeds on one base model and one data split, compared with intervals in one report.

    Args:
        recipe: Named study to start from.
        name: Name of the study and its MLflow experiment; None = the recipe's.
        arms: Arms by name; None = the recipe's. base is always measured.
        seeds: Seeds of every arm; None = the recipe's.
        rates: Learning rates per arm; of several, the first seed's validation accuracy chooses one for all seeds.
            None = the study's, {} = the recipe's one rate for every arm.
        separate_teacher: The other model where a teacher needs one, as in teacher.source; tiny models have their own.
        test_items: Items of the test split, measured once per arm and seed; None = the recipe's.
        test_samples: Sampled completions per test item; 0 = greedy only; None = the recipe's.
        sets: Further sets by name, for forgetting and transfer; None = the recipe's.
        side: Arms that run side by side, each in a process of its own with its share of the cores.
        overrides: Any setting of the campaign, for all arms, nested as in docs/configuration.md.
    """
    knobs = {
        "name": name,
        "arms": arms,
        "seeds": seeds,
        "rates": rates,
        "separate_teacher": separate_teacher,
        "test_items": test_items,
        "test_samples": test_samples,
        "sets": sets,
    }
    config = resolve_study(recipe, overrides, knobs)
    preflight(config.base)
    with one_campaign(config.name), side_by_side(side) as run:
        opened = open_study(config)
        trained = train_arms(config, opened, run)
        jobs = [(opened, "base", config.seeds[0], None), *((opened, t.arm, t.seed, t) for t in trained)]
        measured = run(measure_arm, [job for job in jobs if job[3] is None or job[3].chosen])
        text = report_study(opened, trained, measured)
    print(text)
    return text


def train_arms(config: StudyConfig, opened: Study, run: Any) -> list[Training]:
    """Every arm and seed. Of an arm's several rates the one best on validation with the first seed serves the other seeds."""
    first, *others = config.seeds
    several = {arm: config.rates[arm] for arm in config.trained_arms if len(config.rates.get(arm, ())) > 1}
    trials = [(opened, arm, first, rate) for arm, rates in several.items() for rate in rates]
    plain = [
        (opened, arm, seed, rate)
        for seed in config.seeds  # what arms share, such as a separate teacher, is not made by two seeds at once
        for arm in config.trained_arms
        if arm not in several
        for rate in config.rates.get(arm) or (None,)
    ]
    trained = run(train_arm, [*trials, *plain])
    best: dict[str, Training] = {}
    for training in trained[: len(trials)]:
        if training.arm not in best or training.validation_accuracy > best[training.arm].validation_accuracy:
            best[training.arm] = training
    rest = run(train_arm, [(opened, arm, seed, best[arm].rate) for arm in several for seed in others])
    return [*best.values(), *trained[len(trials) :], *rest]
