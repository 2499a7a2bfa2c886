"""What the stages of a study hand to each other: addresses and a few numbers."""

from pydantic import Field

from opsd_core.config import CampaignConfig
from opsd_core.study import StudyConfig, resolve_arm
from tasks.refs import Campaign, PolicyRef, Record, Ref


class Study(Record):
    """Everything that stays the same during a study: one base model, one data split."""

    id: str
    config: StudyConfig
    base: CampaignConfig
    """The recipe with the study's overrides, before any arm's."""
    record: Ref
    data: Ref
    initial: PolicyRef
    run_id: str
    """MLflow parent run."""
    flow_run_id: str | None = None
    git_revision: str = ""

    def campaign(
        self, config: CampaignConfig, teachers: list[PolicyRef] | None = None, data: Ref | None = None
    ) -> Campaign:
        """An arm as the campaign that the stages know; it has no registered model and starts from the base model."""
        return Campaign(
            id=self.id,
            config=config,
            record=self.record,
            data=data or self.data,
            initial=self.initial,
            champion=self.initial,
            teachers=teachers or [],
            run_id=self.run_id,
            flow_run_id=self.flow_run_id,
            git_revision=self.git_revision,
        )

    def arm_config(self, arm: str, seed: int, rate: float | None = None) -> CampaignConfig:
        """The configuration of one arm and seed."""
        return resolve_arm(self.config, arm, seed, rate)

    def measuring(self, **evaluation: object) -> CampaignConfig:
        """What to measure with: the same items, prompts and draws for every arm and seed."""
        return self.base.model_copy(update={"evaluation": self.base.evaluation.model_copy(update=evaluation)})


class Checkpoint(Record):
    """The policy after one iteration of an arm."""

    iteration: int
    policy: PolicyRef
    validation: dict[str, float]
    training: dict[str, float]
    shards: list[Ref]
    targets: list[Ref] = Field([])
    rehearsal: Ref | None = None


class Training(Record):
    """One arm trained with one seed and rate; empty and with a reason when it could not be."""

    arm: str
    seed: int
    rate: float
    run_id: str
    checkpoints: list[Checkpoint] = Field([])
    costs: dict[str, float] = Field({})
    """generated_tokens, teacher_tokens, trained_tokens, seconds (and per stage), peak_bytes, stored_bytes: as if run alone."""
    failed: str = ""

    @property
    def chosen(self) -> Checkpoint | None:
        """The checkpoint with the highest validation accuracy; the latest of several."""
        if not self.checkpoints:
            return None
        return max(self.checkpoints, key=lambda point: (point.validation.get("eval/accuracy", 0.0), point.iteration))

    @property
    def validation_accuracy(self) -> float:
        """Of the chosen checkpoint; -1 without one."""
        return -1.0 if self.chosen is None else self.chosen.validation.get("eval/accuracy", 0.0)


class Measured(Record):
    """What was measured once, after the checkpoint was chosen."""

    arm: str
    seed: int
    test: Ref
    metrics: dict[str, float]
    """Of the test split."""
    sets: dict[str, Ref] = Field({})
    """Name of the set -> artifact with a value per item."""
    seconds: float = 0.0
