"""What a teacher is made of: the models at hand by whatever names them, and how to load one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from opsd_core.config import CampaignConfig, TeacherConfig
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.policy import Policy

Handle = TypeVar("Handle")
"""What names a model: an address, a folder, a policy in memory."""


@dataclass(frozen=True)
class Models(Generic[Handle]):
    """The models of an iteration that may teach."""

    initial: Handle
    """The campaign's first policy."""
    champion: Handle
    """The last promoted policy; the first where none was."""
    others: Sequence[Handle] = ()
    """Those that teacher.source or teacher.peers names, in that order."""
    policy: Handle | None = None
    """The policy as the iteration begins; only asked for where it teaches itself before anything is trained."""


def models_that_teach(config: CampaignConfig, models: Models[Handle]) -> tuple[Handle, ...]:
    """Whose stored weights teach in an iteration: one, several that are mixed, or none without a teacher.

    Of a log-linear teacher one for each member that it has before training, in their order. ConfigError where other models teach
    and `models` has none.
    """
    if config.distillation.teacher_free:
        return ()
    sources, found = list(config.teacher.sources), []
    for term in config.teacher.at_rest:
        place = sources.index(term.teacher.source) if term.teacher.weights_kind.models == "source" else 0
        chosen: tuple[Handle, ...] = {
            "initial": (models.initial,),
            "champion": (models.champion,),
            "source": tuple(models.others[place : place + 1]),
            "peers": tuple(models.others),
        }[term.teacher.weights_kind.models]
        if not chosen:
            raise ConfigError(
                f"teacher.weights={term.teacher.weights} is taught by other models, and none of them is given. "
                "Pass those that teacher.source or teacher.peers names."
            )
        found += chosen
    return tuple(found)


@dataclass(frozen=True)
class Parts(Generic[Handle]):
    """Everything that the making of a teacher may ask for."""

    config: CampaignConfig
    models: Models[Handle]
    load: Callable[[Handle], Policy]
    """A model that is only read; the same one may be given twice."""
    load_copy: Callable[[Handle], Policy] | None = None
    """A model in float32 that belongs to the teacher alone, which changes it."""
    student: Policy | None = None
    """The policy that is trained; None before training."""
    name: str = ""
    """What messages call the teacher of which this is a member; empty = by its weights."""

    @property
    def settings(self) -> TeacherConfig:
        return self.config.teacher

    def of(self, teacher: TeacherConfig) -> "Parts[Handle]":
        """The parts of a member that is a teacher by itself."""
        sources, others = self.settings.sources, self.models.others
        if teacher.weights_kind.models == "source":
            others = [others[place] for place in (sources.index(teacher.source),) if place < len(others)]
        config = self.config.model_copy(update={"teacher": teacher})
        return replace(self, config=config, models=replace(self.models, others=others), name=self._name)

    @property
    def _name(self) -> str:
        return self.name or self.settings.weights_name

    def fixed(self) -> tuple[Policy, ...]:
        """The models that teach, loaded to be read."""
        return tuple(self.load(handle) for handle in models_that_teach(self.config, self.models))

    def copy_of(self, handle: Handle) -> Policy:
        """A float32 copy of a model to change. ModelError without a way to load one."""
        if self.load_copy is None:
            raise ModelError(f"teacher.weights={self._name} changes a copy of its own. Pass load_copy.")
        return self.load_copy(handle)

    def trained(self) -> Policy:
        """The student. ModelError before training."""
        if self.student is None:
            raise ModelError(f"teacher.weights={self._name} is made of the student that is trained. Pass student.")
        return self.student
