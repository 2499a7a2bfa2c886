"""Does self-distillation help this model on this data, compared with what else one could do, at what cost?

prefect deployment run opsd/study -p recipe=tiny --watch
prefect deployment run opsd/study -p recipe=tiny -p 'arms=["base","opsd","null"]' -p 'seeds=[0,1]'
"""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from flows import stages
from flows.forms import setting, settings, untouchable
from flows.parameters import flow
from opsd_core.config import deep_merge
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.errors import ConfigError
from opsd_core.study import STUDIES, StudyConfig, resolve_study
from opsd_core.study.arms import ARMS
from opsd_core.study.sets import SETS
from tasks.exclusive import one_campaign
from tasks.runtime.side_by_side import Run, side_by_side
from tasks.study.refs import Study, Training

StudyName = Literal[*sorted(STUDIES)]
_TRAIN = "|".join(name for name, arm in ARMS.items() if arm.trains)
_ARM = f"({'|'.join(ARMS)}|({_TRAIN}):[0-9]+|({'|'.join(TEACHER_KINDS)})[.]({'|'.join(CONTEXT_KINDS)})(:[0-9]+)?)"
ARM_NAMES = {"type": "array", "items": {"type": "string", "pattern": f"^{_ARM}$"}, "minItems": 1}
SET_NAMES = {"type": "array", "items": {"type": "string", "enum": list(SETS)}, "uniqueItems": True}
_RATES = {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}}
ARM_RATES = untouchable({"type": "object", "propertyNames": {"pattern": f"^{_ARM}$"}, "additionalProperties": _RATES})


def _setting(path: str) -> WithJsonSchema:
    return setting(path, StudyConfig, STUDIES)


@flow
def study(
    recipe: StudyName = "tiny",
    name: Annotated[str | None, _setting("name")] = None,
    arms: Annotated[list[str] | None, WithJsonSchema(ARM_NAMES)] = None,
    seeds: Annotated[list[int] | None, _setting("seeds")] = None,
    rates: Annotated[dict[str, list[float]] | None, WithJsonSchema(ARM_RATES)] = None,
    separate_teacher: Annotated[str | None, _setting("separate_teacher")] = None,
    test_items: Annotated[int | None, _setting("test_items")] = None,
    test_samples: Annotated[int | None, _setting("test_samples")] = None,
    test_temperature: Annotated[float | None, _setting("test_temperature")] = None,
    sets: Annotated[list[str] | None, WithJsonSchema(SET_NAMES)] = None,
    set_items: Annotated[int | None, _setting("set_items")] = None,
    confidence: Annotated[float | None, _setting("confidence")] = None,
    side: Annotated[int, Field(ge=1, le=64)] = 1,
    overrides: Annotated[dict[str, Any], settings()] = {},  # noqa: B006
) -> str:
    """Arms times seeds on one base model and one data split, compared with intervals in one report.

    Args:
        recipe: Named study to start from. Untouched: tiny.
        arms: Arms by name, with :N for N labelled examples, or any teacher as WEIGHTS.CONTEXT; base is always measured.
            Untouched: the study's.
        rates: Learning rates per arm; of several, the first seed's validation accuracy chooses one for all seeds.
            Untouched: the study's; {} = the recipe's one rate for every arm.
        sets: Further sets by name, for forgetting and transfer. Untouched: the study's.
        side: Arms that run side by side, each in a process of its own with its share of the cores. Untouched: 1.
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
        "test_temperature": test_temperature,
        "sets": sets,
        "set_items": set_items,
        "confidence": confidence,
    }
    config = resolve_study(recipe, overrides, knobs)
    stages.preflight(config.base)
    stages.load_all()
    inline = config.base.execution.placement == "inline"
    if side > 1 and not inline:
        raise ConfigError(f"side={side} is for processes of one machine; with execution.placement=workers leave it out.")
    with one_campaign(config.name), side_by_side(side) if inline else stages.placed(config.name, config.base.execution) as run:
        config = settled(config, run)
        run.one(stages.prepare_model, config.base)  # runners load it, this process reads what they found
        opened = stages.open_study(config)
        trained = train_arms(config, opened, run)
        jobs = [(opened, "base", config.seeds[0], None), *((opened, t.arm, t.seed, t) for t in trained)]
        measured = run(stages.measure_arm, [job for job in jobs if job[3] is None or job[3].chosen])
        text = stages.report_study(opened, trained, measured)
    print(text)
    return text


def settled(config: StudyConfig, run: Run) -> StudyConfig:
    """The study with a device and a dtype in place of `auto`, the same for all arms."""
    base = stages.settle_engine(config.base, stages.offers(run))
    if base.model == config.base.model:
        return config
    chosen = {"model": base.model.model_dump(include={"device", "dtype"})}
    return config.model_copy(update={"overrides": deep_merge(config.overrides, chosen)})


def train_arms(config: StudyConfig, opened: Study, run: Run) -> list[Training]:
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
    trained = run(stages.train_arm, [*trials, *plain])
    best: dict[str, Training] = {}
    for training in trained[: len(trials)]:
        if training.arm not in best or training.validation_accuracy > best[training.arm].validation_accuracy:
            best[training.arm] = training
    rest = run(stages.train_arm, [(opened, arm, seed, best[arm].rate) for arm in several for seed in others])
    return [*best.values(), *trained[len(trials) :], *rest]
