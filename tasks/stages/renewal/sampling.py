"""Where an iteration's completions come from: sampled now, kept from an earlier one, or sampled ahead with the policy before."""

from dataclasses import dataclass

from opsd_core.config import CampaignConfig
from tasks.refs import CurriculumRef, Held, Iteration, Judged, PromptSet
from tasks.runtime.side_by_side import HERE, Begun, Run
from tasks.stages.peers import meet_peers
from tasks.stages.prompts import choose_prompts
from tasks.stages.refilling.rounds import refill
from tasks.stages.renewal.judge import judge
from tasks.stages.rollout import rollout


def roll_out(
    iteration: Iteration, held: Held | None, ahead: "Ahead | None", run: Run = HERE
) -> tuple[Iteration, Held, Judged]:
    """The completions to learn from: sampled ahead, kept while `held` are good enough, else sampled now."""
    judged, found = judge(iteration, held, run), None
    if ahead:
        found = ahead.arrived()
    elif judged.keep:
        iteration, found = keep(iteration, held)
    prompts = found.prompts if found else choose_prompts(iteration)
    iteration = meet_peers(iteration, prompts, run)
    return iteration, found or sample(iteration, prompts, run), judged


def sample(iteration: Iteration, prompts: PromptSet, run: Run) -> Held:
    """The prompts answered by the iteration's policy, again where rollout.refill asks for it; `run` does the shards."""
    shards = run(rollout, [(iteration, prompts, shard) for shard in range(prompts.num_shards)])
    sampling, refilled = iteration.config.rollout.sampling, None
    if iteration.config.rollout.asks_again:
        shards, refilled = refill(iteration, prompts, shards, run)
    return Held(prompts=prompts, shards=shards, curriculum=iteration.curriculum, sampling=sampling, refilled=refilled)


def keep(iteration: Iteration, held: Held) -> tuple[Iteration, Held]:
    """`held` once more: prompts were drawn and completions are graded with what was known then, and cost nothing now."""
    shards = [shard.model_copy(update={"seconds": 0.0}) for shard in held.shards]
    return iteration.model_copy(update={"curriculum": held.curriculum}), held.model_copy(update={"shards": shards})


@dataclass
class Ahead:
    """The next iteration's completions, while this one trains."""

    iteration: Iteration
    """The next one as far as it is known: this one's policy samples with the next one's prompts and seeds."""
    sampled_in: int
    prompts: PromptSet
    begun: Begun

    def arrived(self) -> Held:
        """Once all are sampled."""
        shards = [shard.model_copy(update={"iteration": self.sampled_in}) for shard in self.begun.results()]
        sampling = self.iteration.config.rollout.sampling
        return Held(prompts=self.prompts, shards=shards, curriculum=self.iteration.curriculum, sampling=sampling)

    def drop(self) -> None:
        """They are not wanted: the iteration that they were for starts from another policy than was expected."""
        self.begun.drop()


def begin_ahead(
    iteration: Iteration, following: CampaignConfig, curriculum: CurriculumRef | None, run: Run = HERE
) -> Ahead:
    """Begin what execution.overlap samples ahead; `following` is in force in the next iteration, `curriculum` known before it.

    What comes out does not depend on when it is done: prompts, seeds and policy are settled here.
    """
    number = iteration.number + 1
    begins = iteration.model_copy(update={"number": number, "config": following, "curriculum": curriculum, "solved": None})
    prompts = choose_prompts(begins)
    calls = [(begins, prompts, shard) for shard in range(prompts.num_shards)]
    return Ahead(begins, iteration.number, prompts, run.begin(rollout, calls))
