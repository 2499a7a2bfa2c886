"""The stages that flows call, `stages.grade(...)`: each is imported when it is first asked for.

A flow is declared, shown as a form and refused without a single stage, so a process that only does that loads no torch, no
transformers and no MLflow. A campaign that has passed its first checks loads them all, `load_all`.
"""

# ruff: noqa: F401  type checkers and the import contracts read these imports, the door hands them out

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from opsd_core.doors import door, for_type_checkers

if TYPE_CHECKING:
    from tasks.answers.stage import write_answers
    from tasks.champion.approval import Approval, carry_out_answer, show_verdict
    from tasks.champion.moves import promote_version, roll_back
    from tasks.guards.anchor import set_anchor
    from tasks.guards.items import prepare_guards
    from tasks.guards.measure import answer_guards
    from tasks.stages.blocks import measure_both
    from tasks.stages.decide import decide, register
    from tasks.stages.distil import distil_candidate
    from tasks.stages.dry_run import try_campaign
    from tasks.stages.grade import grade, probe_teacher
    from tasks.stages.peers import meet_peers
    from tasks.stages.placement.engine import settle_engine
    from tasks.stages.placement.pulling import pull
    from tasks.stages.placement.runners import offers, placed
    from tasks.stages.prepare import preflight, prepare_data, prepare_model, prepare_teachers, start_campaign
    from tasks.stages.prompts import advance_curriculum
    from tasks.stages.rehearse import rehearse
    from tasks.stages.renewal.sampling import begin_ahead, roll_out
    from tasks.stages.report import open_iteration, report_iteration
    from tasks.stages.reports.closing import close_campaign
    from tasks.stages.score import score_shard
    from tasks.stages.watch import recover, watch
    from tasks.stages.weights import warm_start
    from tasks.study.arm import train_arm
    from tasks.study.open import measure_arm, open_study
    from tasks.study.report import report_study
    from tasks.upkeep.deletion import delete_unneeded, plan_retention
    from tasks.upkeep.new_data import start_on_new_data

MODULES = for_type_checkers(__file__)
"""Module -> the names of it that flows use."""

__getattr__, __dir__, __all__ = door(__name__, MODULES)


def load_all(modules: Iterable[str] = MODULES) -> None:
    """Import every stage: work that has begun uses one state of the code to its end, whatever an update puts in its place."""
    for module in modules:
        import_module(module)
