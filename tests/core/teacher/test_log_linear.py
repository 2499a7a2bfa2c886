"""pytest tests/core/teacher/test_log_linear.py — log T = log_softmax(sum c l): values, gradients, bounds, views, state."""

import copy
from dataclasses import replace

import pytest
import torch

from opsd_core.config import resolve
from opsd_core.errors import ConfigError, DataError
from opsd_core.models.policy import add_lora
from opsd_core.objective.stops import Stops
from opsd_core.objective.types import LOG_ZERO
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.context_inputs import ContextInputs
from opsd_core.prompts.contexts import build_context
from opsd_core.prompts.teacher import NO_CONTEXT, teacher_prompts
from opsd_core.records.grades import GradedRollout
from opsd_core.records.views import BETWEEN, joined, longest, views_of
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.teacher.ends import stops_of
from opsd_core.teacher.kinds import teacher_before_training, teacher_identity, teacher_in_training
from opsd_core.teacher.log_linear import EXCLUDED, LogLinearTeacher, Member, log_linear
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.parts import Models, Parts, models_that_teach
from opsd_core.teacher.scoring import members_hidden, score_rollouts, score_targets, teacher_logprobs
from opsd_core.teacher.teachers import AdapterOffTeacher, FixedTeacher, LiveTeacher, PeersTeacher
from opsd_core.training.alarms import remedied
from opsd_core.training.items import ITEMS, training_items
from opsd_core.training.trainer import Schedule, distil, objective
from tests.core.prompts.test_contexts import POOL
from tests.core.small import rollout_of, small_policy
from tests.core.teacher.test_ends import EOS, OTHER, ending, stopped_items
from tests.core.training.test_trainer import config, gradients, items

ONLINE = {"distillation": {"targets": "online"}}
RIGHT, WRONG, PLAIN = (dict(zip(("context", "template"), pair, strict=True)) for pair in (
    ("reference", "{{ privileged_context }}|{{ question }}"),
    ("shuffled_reference", "{{ privileged_context }}|{{ question }}"),
    ("none", ""),
))  # fmt: skip


def members(*chosen):
    """teacher.members of (coefficient, settings)."""
    return {"teacher": {"members": [{"coefficient": c, **settings} for c, settings in chosen]}}


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def parts_of(settings, student=None, others=()):
    models = Models(0, 5, others, policy=3)
    return Parts(settings, models, small_policy, small_policy, student)


def two_views(policy, batch=None):
    """Items whose teacher reads a hint in its first prompt and the student's own in its second."""
    return [
        replace(item, teacher_prompt_ids=joined([item.teacher_prompt_ids, item.prompt_ids]))
        for item in batch or items(policy, hint="9|")
    ]


def said(policy, prompts, batch, temperature=1.0):
    """float64 log-probabilities of a model alone, one sequence at a time."""
    rows = []
    for prompt, item in zip(prompts, batch, strict=True):
        ids = torch.tensor([list(prompt) + item.completion_ids])
        rows.append(policy.causal_lm(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() / temperature)
    return torch.log_softmax(torch.cat(rows), -1)


def test_two_members_against_the_closed_form():
    """p = (.8, .2), q = (.5, .5): p^2 / q is (1.28, .08), normalised (16/17, 1/17); sqrt(p q) is (2/3, 1/3) normalised."""
    p, q = logs([0.8, 0.2]), logs([0.5, 0.5])
    assert log_linear([p, q], [2.0, -1.0]).exp()[0].tolist() == pytest.approx([16 / 17, 1 / 17], abs=1e-12)
    assert log_linear([p, q], [0.5, 0.5]).exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-12)
    assert log_linear([p], [1.0]) is p
    assert log_linear([p], [2.0]).exp()[0].tolist() == pytest.approx([16 / 17, 1 / 17], abs=1e-12)


@pytest.mark.parametrize("coefficients", [(1.0, 0.7, -0.7), (0.5, 0.5, 0.0001), (3.0, -1.0, -1.0), (0.2, 0.1, 0.1)])
def test_any_members_are_the_float64_oracle_where_no_bound_holds(coefficients):
    torch.manual_seed(1)
    rows = [torch.log_softmax(2 * torch.randn(40, 300), -1) for _ in coefficients]
    assert min(row.min() for row in rows) > EXCLUDED
    wanted = torch.log_softmax(sum(c * row.double() for c, row in zip(coefficients, rows, strict=True)), -1)
    found = log_linear(rows, coefficients)
    assert found.dtype == torch.float32 and torch.allclose(found.double(), wanted, atol=2e-5)


@pytest.mark.parametrize("followed", [-24.0, -60.0, -1e4, LOG_ZERO])
@pytest.mark.parametrize("avoided", [-24.0, -90.0, -1e5, LOG_ZERO])
@pytest.mark.parametrize("coefficients", [(1.0, 1.0, -1.0), (2.0, 4.0, -5.0), (0.1, 1.0, -1.0), (50.0, 51.0, -100.0)])
def test_what_all_followed_members_exclude_does_not_become_likely(followed, avoided, coefficients):
    """Entry 2 is below 1e-10 in both followed members and far below that in the avoided one; 0 and 1 are what they like."""
    base = torch.log_softmax(torch.tensor([[0.3, 0.0, followed, -1.0]]), -1)
    hint = torch.log_softmax(torch.tensor([[2.0, 0.0, followed, -1.0]]), -1)
    wrong = torch.log_softmax(torch.tensor([[0.0, 2.0, avoided, -1.0]]), -1)
    mixed = log_linear([base, hint, wrong], coefficients)
    assert torch.isfinite(mixed).all() and mixed.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert mixed[0, 2] < -2.0 * sum(coefficients) and mixed[0, 2] < mixed[0, [0, 1, 3]].min() - 1.0
    assert mixed[0, 0] > mixed[0, 1]  # away from the wrong hint


def test_a_member_that_is_avoided_gives_every_token_at_least_1e_10():
    """p = (.5, .5), q = (1 - 1e-30, 1e-30): entry 1 gains ln 1e10 and not ln 1e30, so its odds are 1e10."""
    p, q = logs([0.5, 0.5]), torch.tensor([[0.0, -69.07]], dtype=torch.float64)
    mixed = log_linear([2 * p / 2, q], [2.0, -1.0])
    assert (mixed[0, 1] - mixed[0, 0]).item() == pytest.approx(-EXCLUDED, abs=1e-9)
    vetoed = log_linear([torch.tensor([[0.0, LOG_ZERO]]), q.float()], [2.0, -1.0])
    assert vetoed.exp().tolist() == [[1.0, 0.0]] and torch.isfinite(vetoed).all()


@pytest.mark.parametrize("bound", ["none", "token_reweight"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_loss_and_gradient_are_the_float64_oracles(divergence, bound):
    """Right hint - wrong hint + the student's own view, of three models: through the product and by hand in float64."""
    student, models = small_policy(0), [small_policy(1), small_policy(2), small_policy(3)]
    settings = config(distillation={"targets": "online", "divergence": divergence, "bound": bound}, teacher={"temperature": 0.8})
    batch = two_views(student)
    teacher = LogLinearTeacher([
        Member(FixedTeacher(models[0]), 1.0, 1), Member(FixedTeacher(models[1]), 0.5, 0), Member(FixedTeacher(models[2]), -0.5, 0)
    ])  # fmt: skip
    found, gradient = objective(student, teacher, batch, settings), gradients(student, teacher, batch, settings)
    seen = [views_of(item.teacher_prompt_ids) for item in batch]
    with torch.no_grad():
        rows = [said(m, [views[v] for views in seen], batch, 0.8) for m, v in zip(models, (1, 0, 0), strict=True)]
        t = torch.log_softmax(rows[0] + 0.5 * rows[1] - 0.5 * rows[2], -1)
    oracle = copy.deepcopy(student)
    oracle.model.double().zero_grad()
    s = said(oracle, [item.prompt_ids for item in batch], batch)
    m = torch.logaddexp(s, t) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    value = {
        "forward_kl": (t.exp() * (t - s)).sum(-1),
        "reverse_kl": (s.exp() * (s - t)).sum(-1),
        "jsd": 0.5 * (t.exp() * (t - m)).sum(-1) + 0.5 * (s.exp() * (s - m)).sum(-1),
    }[divergence]
    factor = 1.0 if bound == "none" else torch.clamp(1.0 / value.detach(), max=1.0)
    assert torch.allclose(found.divergence_N.double(), value.detach(), atol=2e-4)
    ((factor * value).sum() / len(value)).backward()
    wanted = torch.cat([p.grad.flatten() for p in oracle.model.parameters() if p.grad is not None])
    assert (gradient.double() - wanted).norm() <= 1e-4 * wanted.norm() and wanted.norm() > 1e-2


@pytest.mark.parametrize("chosen", [
    [(1.0, PLAIN)], [(0.1, PLAIN), (0.2, PLAIN), (0.7, PLAIN)], [(2.0, PLAIN), (-1.0, PLAIN)],
    [(1.0, PLAIN), (0.3, RIGHT), (-0.3, RIGHT)],
])  # fmt: skip
@pytest.mark.parametrize("distillation", [
    {}, {"divergence": "reverse_kl", "top_k_of": "student"}, {"divergence": "jsd", "bound": "none"},
    {"divergence": "sampled_token"},
])  # fmt: skip
def test_the_students_own_weights_and_view_are_exactly_zero_however_they_are_written(chosen, distillation):
    student = ending(small_policy(0), EOS, OTHER)
    live = members(*((c, view | {"weights": "live"}) for c, view in chosen))
    settings = config(**live, distillation=ONLINE["distillation"] | distillation)
    teacher = teacher_in_training(parts_of(settings, student))
    batch = [replace(item, teacher_prompt_ids=item.prompt_ids) for item in stopped_items(student)]
    assert float(objective(student, teacher, batch, settings).loss_sum.detach()) == 0.0
    assert gradients(student, teacher, batch, settings).abs().max() < 1e-6
    same = gradients(student, LiveTeacher(student), batch, settings)
    assert torch.equal(gradients(student, teacher, batch, settings), same)


def test_trust_region_and_geometric_peers_are_lines_of_the_same_table():
    initial, student, batch = small_policy(0), small_policy(2), items(small_policy(0), hint="9|")
    asked = [i.teacher_prompt_ids for i in batch], [i.completion_ids for i in batch]
    region = config(**ONLINE, teacher={"weights": "trust_region", "trust_region_lambda": 0.3})
    written = config(**ONLINE, **members((0.7, {"weights": "initial"}), (0.3, {"weights": "live"})))
    found = [teacher_in_training(parts_of(settings, student)) for settings in (region, written)]
    says = [teacher_logprobs(teacher, members_hidden(teacher, *asked), Transform()) for teacher in found]
    assert torch.equal(*says) and type(found[0]) is LogLinearTeacher
    z = [said(policy, asked[0], batch) for policy in (initial, student)]
    assert torch.allclose(says[0].double(), torch.log_softmax(0.7 * z[0] + 0.3 * z[1], -1), atol=1e-4)
    outside = [{"weights": "external", "source": name} for name in ("a/b", "c/d")]
    peers = teacher_in_training(parts_of(config(**members(*((0.5, o) for o in outside))), others=(8, 9)))
    geometric = PeersTeacher([small_policy(8), small_policy(9)], "geometric", "uniform")
    says = [teacher_logprobs(t, members_hidden(t, *asked), Transform()) for t in (peers, geometric)]
    assert torch.allclose(*says, atol=1e-5)


def test_one_member_may_be_the_student_without_its_adapters_and_another_the_student_with_them():
    chosen = members((1.5, {"weights": "live"}), (-0.5, {"weights": "adapter_off"}))
    settings = config(model={"lora": {"rank": 4}}, **ONLINE, **chosen)
    student = add_lora(small_policy(0), settings.model.lora, seed=1)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    teacher, batch = teacher_in_training(parts_of(settings, student)), items(student, hint="9|")
    asked = [i.teacher_prompt_ids for i in batch], [i.completion_ids for i in batch]
    alone = (LiveTeacher(student), AdapterOffTeacher(student))
    rows = [teacher_logprobs(t, members_hidden(t, *asked), Transform()) for t in alone]
    found = teacher_logprobs(teacher, members_hidden(teacher, *asked), Transform())
    assert torch.equal(found, log_linear(rows, [1.5, -0.5])) and not torch.allclose(rows[0], rows[1], atol=1e-2)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "sampled_token"])
def test_recorded_and_online_agree_with_members_that_end_with_other_tokens(divergence):
    """The events are merged in each member before the sum, so that a member led away from does not make the stop likely."""
    student = ending(small_policy(0), EOS)
    teacher = LogLinearTeacher([
        Member(FixedTeacher(ending(small_policy(1), EOS, OTHER)), 1.5, 0),
        Member(FixedTeacher(ending(small_policy(2), EOS)), -0.5, 1),
    ])  # fmt: skip
    found = []
    for targets in ({"targets": "online"}, {"targets": "recorded", "top_k": 64}):
        settings = config(distillation=targets | {"divergence": divergence})
        stops = stops_of(student, teacher, settings.distillation)
        assert stops == Stops.of([EOS], [[EOS, OTHER], [EOS]])
        batch = two_views(student, stopped_items(student))
        if settings.distillation.records_targets:
            rollouts = [rollout_of("a", n, "", i.prompt_ids, i.completion_ids) for n, i in enumerate(batch)]
            made = score_targets(teacher, rollouts, [i.teacher_prompt_ids for i in batch], 64, Transform(), 64, stops=stops)
            batch = [replace(item, target=target) for item, target in zip(batch, made, strict=True)]
        found.append((objective(student, teacher, batch, settings), gradients(student, teacher, batch, settings)))
    assert torch.allclose(found[0][0].bounded_N, found[1][0].bounded_N, atol=1e-5)
    assert (found[0][1] - found[1][1]).norm() <= 1e-4 * found[0][1].norm()


def test_every_member_reads_its_own_prompt_from_the_data_set_to_the_stored_item():
    chosen = members((1.0, {"context": "none"}), (1.0, {"context": "reference"}), (-1.0, {"context": "shuffled_reference"}))
    settings = config(**chosen, control=False)
    policy, asked = small_policy(0), POOL[:3]
    builder = PromptBuilder.of(policy.tokenizer, settings)
    rollouts = [rollout_of(e.id, 0, "12", builder.student_ids(e), [*policy.tokenizer.encode("12"), EOS]) for e in asked]
    prompts = teacher_prompts(builder, rollouts, {}, POOL).ids
    for example, rollout in zip(asked, rollouts, strict=True):
        wanted = []
        for context in ("none", "reference", "shuffled_reference"):
            teacher = resolve("tiny", {"teacher": {"context": context}, "control": True}).teacher
            shown = build_context(ContextInputs(example, teacher, POOL))
            wanted.append(replace(builder, teacher=teacher).teacher_ids(example, shown))
        assert views_of(prompts[rollout.key]) == wanted and longest(prompts[rollout.key]) == max(map(len, wanted))
    parts = parts_of(settings)
    targets = score_rollouts(teacher_before_training(parts), rollouts, prompts, settings)
    made = training_items(rollouts, _kept(rollouts), targets, prompts, {e.id: e for e in POOL}, policy, settings)
    assert [ITEMS.decode(ITEMS.arrays(item)).teacher_prompt_ids for item in made] == [i.teacher_prompt_ids for i in made]
    assert all(item.teacher_prompt_ids.count(BETWEEN) == 2 for item in made)
    alone = [score_targets(FixedTeacher(policy), [r], [v], 64, Transform(), 512)[0] for r, i in zip(rollouts, made, strict=True)
             for v in views_of(i.teacher_prompt_ids)]  # fmt: skip
    for number, item in enumerate(made):
        plain, right, wrong = (_dense(t) for t in alone[3 * number : 3 * number + 3])
        mixed = torch.log_softmax(plain + right - wrong, -1)
        ids = torch.from_numpy(item.target.topk_ids_TK.astype("int64"))
        assert torch.allclose(mixed.gather(1, ids), torch.from_numpy(item.target.topk_logprobs_TK), atol=1e-4)


def _dense(target):
    ids = torch.from_numpy(target.topk_ids_TK.astype("int64"))
    return torch.empty(ids.shape).scatter(1, ids, torch.from_numpy(target.topk_logprobs_TK))


def _kept(rollouts):
    return [GradedRollout(*r.key, True, 1.0, "12", keep=True, reason="") for r in rollouts]


def test_a_completion_that_lacks_one_members_context_is_left_out_and_copying_from_any_view_is_seen():
    chosen = members((0.5, {"context": "reference"}), (0.5, {"context": "sibling_success"}))
    settings = config(**chosen, rollout={"group_size": 2}, token_weights={"leak_span": 2})
    policy = small_policy(0)
    builder = PromptBuilder.of(policy.tokenizer, settings)
    rollouts = [rollout_of(POOL[0].id, n, "12", builder.student_ids(POOL[0]), [5, 6]) for n in range(2)]
    found = teacher_prompts(builder, rollouts, {rollouts[0].key: True, rollouts[1].key: False}, POOL)
    assert set(found.ids) == {rollouts[1].key} and found.withheld == {rollouts[0].key: NO_CONTEXT}
    inputs = WeightInputs([7, 8, 9, 10], [3], joined([[3, 4], [7, 8, 9]]))
    assert token_weights(inputs, settings).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_members_that_are_averages_share_one_and_resume_bit_for_bit(tmp_path):
    ema = {"weights": "ema"}
    chosen = members((1.0, ema | PLAIN), (0.5, ema | RIGHT), (-0.5, {"weights": "initial"} | WRONG))
    settings = config(**ONLINE, **chosen, execution={"checkpoint_every": 2})
    log = {}

    def run(name, **options):
        student = small_policy(0)
        teacher = teacher_in_training(parts_of(settings, student))
        assert teacher.policies[0] is teacher.policies[1] is not teacher.policies[2] and teacher.views == (0, 1, 2)
        hinted = items(student, hint="9|")
        batch = [replace(i, teacher_prompt_ids=joined([i.prompt_ids, i.teacher_prompt_ids, i.prompt_ids])) for i in hinted]
        save = distil(
            student, teacher, batch, settings, Schedule(0, 4), 3,
            on_step=lambda step, metrics: log.setdefault(name, []).append(metrics["distillation/loss"]),
            on_checkpoint=lambda done, save: save(tmp_path / f"{name}-{done}"), **options,
        )  # fmt: skip
        save(tmp_path / name)

    run("whole")
    run("resumed", resume_from=tmp_path / "whole-2")
    assert log["resumed"] == log["whole"][2:]
    for file in sorted((tmp_path / "whole").iterdir()):
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes(), file.name
    assert (tmp_path / "whole" / "teacher.safetensors").exists()


def test_before_training_a_member_that_moves_is_what_it_begins_as():
    moving = config(**ONLINE, **members((2.0, {"weights": "live", **PLAIN}), (-1.0, {"weights": "ema", **PLAIN})))
    before = teacher_before_training(parts_of(moving))
    assert type(before) is FixedTeacher  # 2 l_0 - l_0
    assert models_that_teach(moving, Models("first", "champion")) == ("first",)
    itself = config(**ONLINE, **members((2.0, {"weights": "live", **RIGHT}), (-1.0, {"weights": "live", **PLAIN})))
    before, asked = teacher_before_training(parts_of(itself)), [[5, 6]]
    found = teacher_logprobs(before, members_hidden(before, [joined([[4, 5], [5]])], asked), Transform())
    rows = [teacher_logprobs(t, members_hidden(t, [[*p]], asked), Transform()) for t, p in
            ((FixedTeacher(small_policy(3)), p) for p in ([4, 5], [5]))]  # fmt: skip
    assert torch.allclose(found, log_linear(rows, [2.0, -1.0]), atol=1e-5)  # small_policy(3): the policy as the iteration begins
    odd = config(**ONLINE, **members((1.0, {"weights": "live", **RIGHT}), (-1.0, RIGHT), (1.0, PLAIN)))
    before = teacher_before_training(parts_of(odd))
    assert before.views == (1,)  # what is left reads the student's own prompt


def test_champions_and_other_models_are_members_in_their_order():
    settings = config(**members(
        (1.0, {"weights": "external", "source": "a/b"}), (0.5, {"weights": "previous"}),
        (-0.5, {"weights": "external", "source": "c/d"}),
        (0.25, {"weights": "external", "source": "a/b", "context": "none"}),
    ))  # fmt: skip
    assert settings.teacher.sources == ("a/b", "c/d")
    assert models_that_teach(settings, Models("first", "champion", ("A", "C"))) == ("A", "champion", "C", "A")
    assert list(settings.teacher.named_sources) == ["teacher.members[0].source", "teacher.members[2].source"]
    teacher = teacher_in_training(parts_of(settings, others=(8, 9)))
    assert teacher.policies[0] is teacher.policies[3] and teacher.views == (0, 0, 0, 1)
    with pytest.raises(ConfigError, match="external is taught by other models"):
        models_that_teach(settings, Models("first", "champion", ("A",)))


def test_a_teachers_identity_follows_its_members():
    base = members((0.5, PLAIN), (0.5, RIGHT))
    found = [
        teacher_identity(config(**chosen))
        for chosen in (base, members((0.4, PLAIN), (0.6, RIGHT)), members((0.5, RIGHT), (0.5, PLAIN)), members((1.0, RIGHT)))
    ]
    assert found[0] == {"members": [[0.5, 0], [0.5, 1]]} and found[0] != found[1] and found[3] == {}
    region = [
        teacher_identity(config(**ONLINE, **members((c, {"weights": "live", **RIGHT}), (1 - c, PLAIN)))) for c in (0.1, 0.2)
    ]
    assert region[0] != region[1]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([(1.0, RIGHT), (-1.0, WRONG)], r"add up to 0.*must be above 0.*\"context\": \"none\""),
        ([(1.0, RIGHT), (-1.5, PLAIN)], r"add up to -0\.5"),
        ([(1.0, RIGHT), (0.0, PLAIN)], r"members\[1\]\.coefficient=0 leaves that member out"),
        ([(1.0, {"weights": "peers"})], r"teacher\.members\.0\.weights: must be 'initial'"),
        ([(1.0, {"weights": "trust_region"})], r"teacher\.members\.0\.weights: must be"),
        ([(1e3, RIGHT)], r"teacher\.members\.0\.coefficient: must be less than or equal to 100"),
        ([(0.5, {"weights": "external"}), (0.5, RIGHT)], r"members: teacher\.weights=external needs teacher\.source"),
        ([(0.5, {"weights": "live"}), (0.5, RIGHT)], r"members: teacher\.weights=live changes at every.*targets=online"),
        ([(0.5, {"weights": "adapter_off"}), (0.5, RIGHT)], r"members: .*model\.lora\.rank=0"),
        ([(0.5, WRONG), (0.5, RIGHT)], r"teacher\.context=shuffled_reference.*control=true"),
        ([(0.5, {"context": "sibling_success"}), (0.5, RIGHT)], r"members: .*rollout\.group_size=1"),
        ([(1.0, RIGHT | {"template": "{{ question }}"})], r"never mentions privileged_context"),
        ([(1.0, RIGHT | {"template": "{{ privileged_context }}{{ x }}"})], r"there is no x"),
        ([(0.5, {"context": "instruction"}), (0.5, RIGHT)], r"members: .*needs teacher\.instruction"),
        ([(1.0, PLAIN)], r"the teacher is the student itself"),
        ([(2.0, PLAIN), (-1.0, {"weights": "previous", **PLAIN})], r"teacher\.weights=initial and previous: the teacher is"),
        ([(0.5, {"source": "a/b", **RIGHT}), (0.5, PLAIN)], r"members\[0\]\.source='a/b' has no effect"),
    ],
)  # fmt: skip
def test_members_that_cannot_teach_are_refused_by_name(chosen, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", members(*chosen))


def test_what_the_whole_says_its_members_inherit():
    with pytest.raises(ConfigError, match=r"teacher\.members with teacher\.weights=trust_region, which is several models"):
        resolve("tiny", members((1.0, RIGHT)), {"teacher": {"weights": "trust_region"}}, ONLINE)
    with pytest.raises(ConfigError, match=r"peer_filter chooses among whole teachers"):
        resolve("tiny", members((1.0, {"weights": "external", "source": "a/b"})), {"teacher": {"peer_filter": "solved"}})
    sharper = resolve("tiny", members((2.0, PLAIN)))  # as a temperature of .5
    assert sharper.teacher.scale == 2.0
    given = resolve("tiny", members((0.5, {}), (0.5, PLAIN)), {"teacher": {"weights": "ema", "context": "hint"}}, ONLINE).teacher
    assert [(t.teacher.weights, t.teacher.context) for t in given.terms] == [("ema", "hint"), ("ema", "none")]
    assert given.weights_kind.keeps and not given.weights_kind.recordable and given.kind.own_reference


def test_the_remedy_that_refreshes_the_teacher_refreshes_its_members():
    alarms = {"alarms": {"remedy": "refresh_teacher"}}
    settings = config(**ONLINE, **members((1.0, {}), (0.5, {"weights": "live"}), (-0.5, {"weights": "ema"})), **alarms)
    assert [t.teacher.weights for t in remedied(settings).teacher.terms] == ["previous", "ema"]


def test_views_are_told_apart():
    assert views_of(joined([[1, 2], [3], [4]])) == [[1, 2], [3], [4]] and joined([[1, 2]]) == [1, 2]
    teacher = LogLinearTeacher([Member(FixedTeacher(small_policy(0)), 0.5, 0), Member(FixedTeacher(small_policy(1)), 0.5, 2)])
    with pytest.raises(DataError, match=r"prompt of 2 contexts.*reads number 3"):
        members_hidden(teacher, [joined([[3], [4]])], [[5]])
