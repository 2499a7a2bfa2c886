"""pytest tests/core/test_kinds.py — every kind has its function, and is what its table line says it is."""

from typing import get_args

import pytest
import torch

from opsd_core.config import resolve
from opsd_core.config.execution import ExecutionConfig
from opsd_core.config.kinds import choices
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.kinds.divergences import DIVERGENCE_KINDS
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.config.kinds.environments import ENVIRONMENT_KINDS
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.config.method import DistillationConfig, RolloutConfig
from opsd_core.config.rules.effects import READ_WHEN
from opsd_core.config.selection import FilterConfig, TokenWeightConfig
from opsd_core.config.teacher import TeacherConfig
from opsd_core.errors import ConfigError, IntegrityError, ModelError
from opsd_core.models.policy import add_lora
from opsd_core.objective.bounds import BOUNDS
from opsd_core.objective.divergences import DIVERGENCES, configured
from opsd_core.objective.types import LOG_ZERO
from opsd_core.prompts.attempts import ATTEMPTS
from opsd_core.prompts.context_inputs import ContextInputs
from opsd_core.prompts.contexts import CONTEXTS, build_context, context_identity
from opsd_core.rollout.engines.kinds import ENGINES
from opsd_core.rollout.environments import environment_of
from opsd_core.selection.groups import KEPT
from opsd_core.selection.token_weights import ENTROPIES, POSITIONS
from opsd_core.teacher.kinds import TEACHERS, teacher_before_training, teacher_identity, teacher_in_training
from opsd_core.teacher.mixtures import MIXTURES, WEIGHTINGS, Transform
from opsd_core.teacher.parts import Models, Parts, models_that_teach
from opsd_core.teacher.scoring import members_hidden, teacher_logprobs
from opsd_core.teacher.teachers import FixedTeacher, LiveTeacher, NoTeacher
from opsd_core.training.checkpoint import load_checkpoint, save_checkpoint
from opsd_core.training.optim import build_optimizer
from tests.core.prompts.test_contexts import GROUP, PEERS, POOL
from tests.core.small import small_policy
from tests.core.training.test_trainer import items

INITIAL, CHAMPION, OTHERS = 0, 5, (8, 9)
"""Handles of the models are the seeds that make them."""
FUNCTIONS = {
    (TeacherConfig, "weights"): (TEACHER_KINDS, TEACHERS),
    (TeacherConfig, "context"): (CONTEXT_KINDS, CONTEXTS),
    (TeacherConfig, "mixture"): (choices.MIXTURES, MIXTURES),
    (TeacherConfig, "mixture_weights"): (choices.MIXTURE_WEIGHTS, WEIGHTINGS),
    (TeacherConfig, "attempt"): (choices.ATTEMPTS, ATTEMPTS),
    (FilterConfig, "keep_per_prompt"): (choices.KEPT, KEPT),
    (ExecutionConfig, "engine"): (ENGINE_KINDS, ENGINES),
    (RolloutConfig, "environment"): (
        ENVIRONMENT_KINDS,
        {name: environment_of(RolloutConfig(environment=name)) for name, kind in ENVIRONMENT_KINDS.items() if kind.function}
        | {"none": None, "python": None},
    ),
    (DistillationConfig, "bound"): (choices.BOUNDS, BOUNDS),
    (TokenWeightConfig, "position"): (choices.POSITIONS, POSITIONS),
    (TokenWeightConfig, "entropy"): (choices.ENTROPIES, ENTROPIES | {"uniform": None}),
    (DistillationConfig, "divergence"): (
        DIVERGENCE_KINDS,
        DIVERGENCES | {name: None for name, kind in DIVERGENCE_KINDS.items() if kind.teacher_free},
    ),
}


@pytest.mark.parametrize(("section", "field"), FUNCTIONS)
def test_what_may_be_configured_is_what_there_is_a_function_for(section, field):
    kinds, functions = FUNCTIONS[section, field]
    assert set(get_args(section.model_fields[field].annotation)) == kinds.keys() == functions.keys()


def test_what_a_kind_names_exists_and_a_setting_that_it_reads_has_its_condition():
    for kinds, section, name in (
        (TEACHER_KINDS, TeacherConfig, "teacher"),
        (CONTEXT_KINDS, TeacherConfig, "teacher"),
        (DIVERGENCE_KINDS, DistillationConfig, "distillation"),
        (ENGINE_KINDS, ExecutionConfig, "execution"),
        (ENVIRONMENT_KINDS, RolloutConfig, "rollout"),
    ):
        read = {setting for kind in kinds.values() for setting in kind.reads}
        assert read <= section.model_fields.keys() and {f"{name}.{setting}" for setting in read} <= READ_WHEN.keys()
    assert all(beta in (0.0, 1.0) and name in DIVERGENCES for k in DIVERGENCE_KINDS.values() for beta, name in k.at_beta.items())


def settings(weights, **overrides):
    kind = TEACHER_KINDS[weights]
    named = {"source": {"source": "a/b"}, "peers": {"peers": ["a/b", "c/d"]}}.get(kind.models, {})
    return resolve(
        "tiny",
        {
            "teacher": {"weights": weights, "ema_decay": 0.5, "trust_region_lambda": 0.5} | named,
            "distillation": {"targets": "recorded" if kind.recordable else "online"},
            "model": {"lora": {"rank": 4 if kind.adapters else 0}},
        },
        overrides,
    )


def parts_of(config, student=None):
    return Parts(config, Models(INITIAL, CHAMPION, OTHERS, policy=3), small_policy, small_policy, student)


def student_of(config):
    policy = small_policy(INITIAL)
    return add_lora(policy, config.model.lora, seed=1) if config.model.lora.rank else policy


def moved(policy):
    """After a step in which every trained parameter changed."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return policy


def says(teacher):
    batch = items(small_policy(INITIAL), hint="9|")
    sides = [i.teacher_prompt_ids for i in batch], [i.completion_ids for i in batch]
    return teacher_logprobs(teacher, members_hidden(teacher, *sides), Transform()).detach()


@pytest.mark.parametrize("weights", TEACHER_KINDS)
def test_a_teacher_is_what_its_kind_says(weights):
    kind, config = TEACHER_KINDS[weights], settings(weights)
    student = student_of(config)
    teacher = teacher_in_training(parts_of(config, student))
    assert type(teacher) is TEACHERS[weights]
    before = says(teacher)
    moved(student)
    teacher.update(student)
    after = says(teacher)
    assert torch.equal(before, after) != kind.moves
    assert torch.allclose(after, says(FixedTeacher(small_policy(INITIAL))), atol=1e-5) == kind.is_initial
    assert torch.allclose(after, says(LiveTeacher(student)), atol=1e-5) == kind.is_student
    assert bool(teacher.state()) == bool(kind.keeps)
    assert (len(models_that_teach(config, Models(INITIAL, CHAMPION, OTHERS))) > 1) == kind.several


@pytest.mark.parametrize("weights", TEACHER_KINDS)
def test_a_teachers_state_survives_a_checkpoint(tmp_path, weights):
    config = settings(weights)
    student = student_of(config)
    optimizer = build_optimizer([p for p in student.model.parameters() if p.requires_grad], config.optimizer)
    teacher = teacher_in_training(parts_of(config, student))
    moved(student)
    teacher.update(student)
    save_checkpoint(tmp_path / "state", student, optimizer, teacher, 1)
    assert (tmp_path / "state" / "teacher.safetensors").exists() == bool(TEACHER_KINDS[weights].keeps)
    again = student_of(config)
    restored = teacher_in_training(parts_of(config, again))
    optimizer = build_optimizer([p for p in again.model.parameters() if p.requires_grad], config.optimizer)
    assert load_checkpoint(tmp_path / "state", again, optimizer, restored) == 1
    assert torch.equal(says(restored), says(teacher))


def test_a_state_of_another_teacher_is_refused_by_name(tmp_path):
    fixed, average = settings("initial"), settings("ema")
    student = small_policy(INITIAL)
    optimizer = build_optimizer(student.model.parameters(), fixed.optimizer)
    save_checkpoint(tmp_path / "state", student, optimizer, teacher_in_training(parts_of(fixed, student)), 1)
    teacher = teacher_in_training(parts_of(average, student))
    with pytest.raises(IntegrityError, match=r"trainer state state holds 0 tensors of a teacher.*teacher\.weights"):
        load_checkpoint(tmp_path / "state", student, optimizer, teacher)
    save_checkpoint(tmp_path / "state", student, optimizer, teacher, 1)
    wider = Parts(average, Models(INITIAL, CHAMPION), small_policy, lambda seed: small_policy(seed, tied=False), student)
    with pytest.raises(IntegrityError, match="first difference: 'lm_head"):
        other = teacher_in_training(wider)
        other.policy.causal_lm.resize_token_embeddings(64, mean_resizing=False)
        load_checkpoint(tmp_path / "state", student, optimizer, other)
    teacher = teacher_in_training(parts_of(fixed, student))
    assert load_checkpoint(tmp_path / "state", student, optimizer, teacher) == 1  # who keeps nothing reads nothing


def test_whose_weights_teach():
    models = Models("first", "champion", ("a", "b"))
    expected = {
        "initial": ("first",),
        "previous": ("champion",),
        "ema": ("first",),
        "live": ("first",),
        "adapter_off": ("first",),
        "trust_region": ("first",),
        "external": ("a",),
        "peers": ("a", "b"),
    }
    assert {weights: models_that_teach(settings(weights), models) for weights in expected} == expected
    for divergence in ("cross_entropy", "opsa"):
        free = resolve("tiny", {"distillation": {"divergence": divergence}, "filter": {"route": "correct_only"}})
        assert models_that_teach(free, models) == ()
        assert isinstance(teacher_in_training(parts_of(free)), NoTeacher)
    with pytest.raises(ConfigError, match=r"external is taught by other models.*teacher\.source"):
        models_that_teach(settings("external"), Models("first", "champion"))


@pytest.mark.parametrize("weights", TEACHER_KINDS)
def test_before_training_a_teacher_says_what_it_begins_with(weights):
    kind, config = TEACHER_KINDS[weights], settings(weights)
    now = says(teacher_before_training(parts_of(config)))
    if kind.is_student:
        assert torch.equal(now, says(FixedTeacher(small_policy(3))))
    elif not kind.recordable:
        assert torch.equal(now, says(FixedTeacher(small_policy(INITIAL))))
    else:
        assert torch.equal(now, says(teacher_in_training(parts_of(config, small_policy(INITIAL)))))


def test_a_teacher_whose_part_is_missing_says_which():
    for weights in ("live", "adapter_off", "trust_region"):
        with pytest.raises(ModelError, match=f"{weights} is made of the student"):
            teacher_in_training(parts_of(settings(weights)))
    with pytest.raises(ModelError, match="ema changes a copy"):
        teacher_in_training(Parts(settings("ema"), Models(INITIAL, CHAMPION), small_policy, student=small_policy(0)))


def test_two_teachers_of_the_same_models_have_different_identities_unless_they_say_the_same():
    found = {weights: teacher_identity(settings(weights)) for weights in TEACHER_KINDS}
    assert found.pop("peers") == {"mixture": ["arithmetic", "uniform"]}
    assert not any(found.values())  # the models' digests say it all, and so it stands in stored artifacts

    class Sharper(FixedTeacher):
        """Another teacher of the same model, recorded beforehand."""

    assert Sharper.identity(settings("peers").teacher) == {
        "kind": {"weights": "peers", "mixture": "arithmetic", "mixture_weights": "uniform"}
    }
    for context, kind in CONTEXT_KINDS.items():
        assert set(kind.reads) <= context_identity(TeacherConfig(context=context)).keys()


def test_the_bounds_that_clip_entries_are_those_that_the_rules_know():
    assert tuple(name for name, bound in BOUNDS.items() if bound.of_entries) == choices.ENTRY_BOUNDS


@pytest.mark.parametrize("divergence", [*DIVERGENCES, "jsd=0", "jsd=1"])
def test_a_divergence_is_infinite_where_its_kind_says(divergence):
    """S = (1/2, 1/2), T = (1, 0): KL(T || S) = log 2, KL(S || T) is infinite."""
    name, _, beta = divergence.partition("=")
    config = DistillationConfig(divergence=name, beta=float(beta or 0.5))
    student = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.0, LOG_ZERO]], dtype=torch.float64)
    entries = configured(config, torch.zeros(1, dtype=torch.float64))(student, teacher)
    assert (entries.terms_NE.abs().max() > 1e20) == config.kind.infinite_at_zero


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd=1"])
def test_reverse_kl_by_any_name_needs_entries_and_no_zeros(divergence):
    name, _, beta = divergence.partition("=")
    chosen = {"divergence": name, "beta": float(beta or 0.5)}
    for changes, message in (
        ({"distillation": chosen | {"top_k": 4}}, r"top_k=4 recorded teacher entries sees almost nothing"),
        ({"distillation": chosen, "teacher": {"top_p": 0.9}}, r"infinite where the student"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve("tiny", changes)


@pytest.mark.parametrize("context", [name for name in CONTEXT_KINDS if name != "none"])
def test_a_context_gives_the_variables_that_its_kind_names_and_a_template_may_show_no_others(context):
    kind = CONTEXT_KINDS[context]
    chosen = {"context": context, "instruction": "be brief" if context == "instruction" else "", "template": ""}
    shown = build_context(ContextInputs(POOL[0], TeacherConfig(**chosen), POOL, GROUP, 1, PEERS))
    assert shown.keys() == {"privileged_context", *kind.variables}
    needs = {"rollout": {"group_size": 4}, "control": kind.control}
    chosen |= {"peers": ["a/b"]} if kind.peers else {}
    for variable in {v for k in CONTEXT_KINDS.values() for v in k.variables}:
        teacher = {"teacher": chosen | {"template": f"{{{{ {variable} }}}}|{{{{ question }}}}", "system": "hello"}}
        if variable in kind.variables:
            assert resolve("tiny", teacher, needs).teacher.context == context
        else:
            with pytest.raises(ConfigError, match="never mentions privileged_context"):
                resolve("tiny", teacher, needs)
