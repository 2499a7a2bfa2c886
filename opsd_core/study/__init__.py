"""Studies: arms times seeds on one base model and one data split, compared with intervals."""

from opsd_core.study.arms import ARMS, Arm, find_arm
from opsd_core.study.config import STUDIES, StudyConfig, resolve_arm, resolve_study

__all__ = ["ARMS", "STUDIES", "Arm", "StudyConfig", "find_arm", "resolve_arm", "resolve_study"]
