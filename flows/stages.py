"""The stages that flows call, `stages.grade(...)`: each is imported when it is first asked for.

A flow is declared, shown as a form and refused without a single stage, so a process that only does that loads no torch, no
transformers and no MLflow. A campaign that has passed its first checks loads them all, `load_all`.
"""

# ruff: noqa: F401  the imports are what type checkers and the import contracts read; the door hands the names out

from importlib import import_module
from typing import TYPE_CHECKING

from opsd_core.doors import door

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
    from tasks.stages.prepare import preflight, prepare_data, prepare_model, prepare_teachers, start_campaign
    from tasks.stages.prompts import advance_curriculum, choose_prompts
    from tasks.stages.rehearse import rehearse
    from tasks.stages.report import close_campaign, open_iteration, report_iteration
    from tasks.stages.rollout import rollout
    from tasks.stages.score import score_shard
    from tasks.stages.watch import recover, watch
    from tasks.stages.weights import warm_start
    from tasks.study.arm import train_arm
    from tasks.study.open import measure_arm, open_study
    from tasks.study.report import report_study
    from tasks.upkeep.deletion import delete_unneeded, plan_retention

MODULES = {
    "tasks.answers.stage": ("write_answers",),
    "tasks.champion.approval": ("Approval", "carry_out_answer", "show_verdict"),
    "tasks.champion.moves": ("promote_version", "roll_back"),
    "tasks.guards.anchor": ("set_anchor",),
    "tasks.guards.items": ("prepare_guards",),
    "tasks.guards.measure": ("answer_guards",),
    "tasks.stages.blocks": ("measure_both",),
    "tasks.stages.decide": ("decide", "register"),
    "tasks.stages.distil": ("distil_candidate",),
    "tasks.stages.dry_run": ("try_campaign",),
    "tasks.stages.grade": ("grade", "probe_teacher"),
    "tasks.stages.peers": ("meet_peers",),
    "tasks.stages.prepare": ("preflight", "prepare_data", "prepare_model", "prepare_teachers", "start_campaign"),
    "tasks.stages.prompts": ("advance_curriculum", "choose_prompts"),
    "tasks.stages.rehearse": ("rehearse",),
    "tasks.stages.report": ("close_campaign", "open_iteration", "report_iteration"),
    "tasks.stages.rollout": ("rollout",),
    "tasks.stages.score": ("score_shard",),
    "tasks.stages.watch": ("recover", "watch"),
    "tasks.stages.weights": ("warm_start",),
    "tasks.study.arm": ("train_arm",),
    "tasks.study.open": ("measure_arm", "open_study"),
    "tasks.study.report": ("report_study",),
    "tasks.upkeep.deletion": ("delete_unneeded", "plan_retention"),
}
"""Module -> the names of it that flows use."""

__getattr__, __dir__, __all__ = door(__name__, MODULES)


def load_all() -> None:
    """Import every stage: work that has begun uses one state of the code to its end, whatever an update puts in its place."""
    for module in MODULES:
        import_module(module)
