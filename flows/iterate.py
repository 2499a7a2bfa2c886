"""The main job: N iterations of roll out, grade, score, distil, evaluate, register, gate.

prefect deployment run opsd/iterate --watch
prefect deployment run opsd/iterate -p recipe=tiny -p iterations=5 -p 'overrides={"teacher": {"temperature": 0.8}}'
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from flows import stages
from flows.forms import chosen, setting, settings
from flows.parameters import flow
from opsd_core.config import RECIPES, CampaignConfig, config_at, resolve
from opsd_core.errors import AlarmError
from tasks.exclusive import one_campaign
from tasks.refs import Campaign, CurriculumRef, Held, Iteration, Outcome, PolicyRef, Ref, Sampled
from tasks.runtime.side_by_side import Run
from tasks.runtime.unattended import unattended
from tasks.summary import IterationSummary

if TYPE_CHECKING:
    from tasks.stages.renewal.sampling import Ahead

RecipeName = Literal[*sorted(RECIPES)]


@flow
def iterate(
    recipe: RecipeName = "demo",
    name: Annotated[str | None, setting("name")] = None,
    model: Annotated[str | None, setting("model.source")] = None,
    data: Annotated[str | None, setting("data.source")] = None,
    columns: Annotated[dict[str, Any] | None, setting("data.columns")] = None,
    grader: Annotated[str | None, setting("data.grader")] = None,
    prompts: Annotated[dict[str, Any] | None, setting("prompts")] = None,
    iterations: Annotated[int | None, setting("iterations")] = None,
    num_prompts: Annotated[int | None, setting("rollout.num_prompts")] = None,
    num_steps: Annotated[int | None, setting("optimizer.num_steps")] = None,
    learning_rate: Annotated[float | None, setting("optimizer.learning_rate")] = None,
    seed: Annotated[int | None, setting("seed")] = None,
    overrides: Annotated[dict[str, Any], settings()] = {},  # noqa: B006
    dry_run: bool = False,
) -> str:
    """On-policy self-distillation: a new model version is promoted only when a paired test says it is better.

    Parameters that are not listed are settings by the names in `flows.forms.KNOBS`; untouched, the recipe's value stands.

    Args:
        recipe: Named configuration to start from (docs/recipes.md). Untouched: demo. Own model and data start from base.
        overrides: Any other setting, nested as in docs/configuration.md; merged deeply, siblings keep their values.
        dry_run: Try the campaign on a few prompts and report what both sides read, whether there is a signal, and how long an
            iteration will take. Nothing is registered or trained for good. Untouched: false.
    """
    config = resolve(recipe, unattended(), overrides, chosen(locals()))
    stages.preflight(config)
    if dry_run:
        with stages.placed(config.name, config.execution) as run:
            return try_campaign(config, run)
    with one_campaign(config.name), stages.placed(config.name, config.execution) as run:
        return run_campaign(config, run)


def try_campaign(config: CampaignConfig, run: Run) -> str:
    """The report of a dry run."""
    config = stages.settle_engine(config, stages.offers(run))
    initial = run.one(stages.prepare_model, config)
    data = stages.prepare_data(config, initial)
    if config.promotion.guards:
        stages.prepare_guards(config, initial, data)
    text = run.one(stages.try_campaign, config, initial, data, run.one(stages.prepare_teachers, config, initial))
    print(text)
    return text


def run_campaign(config: CampaignConfig, run: Run, pretraining: bool = False) -> str:
    """Every iteration of one campaign, and its closing lines. `run` does what needs a model."""
    stages.load_all()
    config = stages.settle_engine(config, stages.offers(run))
    config = stages.warm_start(config, run.one(stages.prepare_model, config))
    initial = run.one(stages.prepare_model, config)
    campaign = begin(config, initial, stages.prepare_data(config, initial), run, pretraining)
    loop = Loop(config=config, policy=campaign.start, champion=campaign.champion, run=run)
    for number in range(config.iterations):
        try:
            run_iteration(campaign, number, loop)
        except AlarmError as alarm:
            loop.stopped.append(str(alarm))
            loop.go_back()
            remedied = stages.recover(campaign, loop.config, number, alarm, len(loop.stopped))
            if remedied is None:
                break
            loop.config = remedied
    text = stages.close_campaign(campaign, loop.summaries, loop.stopped)
    print(text)
    return text


def begin(config: CampaignConfig, initial: PolicyRef, data: Ref, run: Run, pretraining: bool = False) -> Campaign:
    """The campaign before its first iteration: teachers, guards and their anchor, what is rehearsed."""
    guards = stages.prepare_guards(config, initial, data) if config.promotion.guards else []
    teachers = run.one(stages.prepare_teachers, config, initial)
    campaign = stages.start_campaign(config, initial, data, teachers, pretraining, guards)
    if guards:
        campaign = stages.set_anchor(campaign)
    return run.one(stages.rehearse, campaign) if config.rehearsal.share else campaign


@dataclass
class Loop:
    """What one iteration hands to the next."""

    config: CampaignConfig
    """The campaign's, with the remedies of alarms so far."""
    policy: PolicyRef
    champion: PolicyRef
    run: Run
    """Does what needs a model, here or in runners (execution.placement)."""
    curriculum: CurriculumRef | None = None
    held: Held | None = None
    """The completions that the last iteration learned from (rollout.refresh)."""
    ahead: "Ahead | None" = None
    """Those that the next one will learn from (execution.overlap)."""
    monitors: list[dict[str, float]] = field(default_factory=list)
    summaries: list[IterationSummary] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """Alarms that stopped iterations, in words."""

    def go_back(self) -> None:
        """An alarm stopped an iteration: the next one starts from the champion, with completions of its own."""
        self.policy = self.champion
        if self.ahead:
            self.ahead.drop()
        self.ahead = None
        if self.config.rollout.refresh != "initial":
            self.held = None

    def length(self) -> int | None:
        """The longest completion that the curriculum allows next."""
        return self.curriculum.max_completion_length if self.curriculum else None


def run_iteration(campaign: Campaign, number: int, loop: Loop) -> None:
    """One turn of the loop. AlarmError when a monitor passes its limit; what was made until then is kept."""
    started = time.perf_counter()
    in_force = config_at(loop.config, number, loop.length())
    iteration = stages.open_iteration(campaign, number, in_force, (loop.policy, loop.champion), loop.curriculum)
    iteration, held, judged = stages.roll_out(iteration, loop.held, loop.ahead, loop.run)
    loop.held, loop.ahead = held, None
    graded = stages.grade(iteration, held.prompts, held.shards)
    loop.curriculum = stages.advance_curriculum(iteration, held.shards, graded)
    if in_force.execution.overlap and number + 1 < campaign.config.iterations:
        following = config_at(loop.config, number + 1, loop.length())
        loop.ahead = stages.begin_ahead(iteration, following, loop.curriculum, loop.run)
    outcome = learn(iteration, held.sampled(graded, judged), loop.monitors, loop.run)
    summary = stages.report_iteration(iteration, outcome, stages.write_answers(iteration, outcome))
    loop.summaries.append(summary.model_copy(update={"wall_seconds": time.perf_counter() - started}))
    verdict = outcome.verdict
    refused_back = not verdict.promote and in_force.promotion.continue_from == "champion"
    loop.policy, loop.champion = (verdict.champion if refused_back else outcome.candidate), verdict.champion


def learn(iteration: Iteration, sampled: Sampled, monitors: list[dict[str, float]] | None, run: Run) -> Outcome:
    """The second half of an iteration: score, distil, evaluate, register, gate.

    `sampled` has no targets yet. `monitors`: metrics of the iterations so far, to which this one's are added and which alarms
    look at; None = no alarms. AlarmError when one stops the iteration.
    """
    config = iteration.config
    graded, alarms = stages.probe_teacher(iteration, sampled.shards, sampled.graded, run), []
    if monitors is not None:
        monitors.append(dict(graded.metrics))
        alarms += stages.watch(iteration, "rollout", monitors)
    recorded = config.distillation.records_targets
    targets = run(stages.score_shard, [(iteration, shard, graded) for shard in sampled.shards]) if recorded else []
    sampled = sampled.model_copy(update={"graded": graded, "targets": targets})
    distilled = run.one(stages.distil_candidate, iteration, sampled)
    compared = stages.measure_both(iteration, distilled.policy, run)
    before, after = compared.before, compared.after
    if monitors is not None:
        monitors[-1] |= after.metrics | {f"champion/{name}": value for name, value in before.metrics.items()}
        monitors[-1] |= {**distilled.metrics, **distilled.probes}
        alarms += stages.watch(iteration, "evaluation", monitors)
    guards = run.one(stages.answer_guards, iteration, distilled.policy) if iteration.campaign.guards else []
    candidate = stages.register(iteration, sampled, distilled, before, after, guards)
    verdict = stages.decide(iteration, candidate, before, after, guards)
    return Outcome(
        sampled=sampled,
        distilled=distilled,
        before=before,
        after=after,
        candidate=candidate,
        verdict=verdict,
        guards=guards,
        alarms=[*alarms, *distilled.alarms],
    )

