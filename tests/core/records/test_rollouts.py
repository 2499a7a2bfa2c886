"""pytest tests/core/records/test_rollouts.py — rollouts and targets on disk, and the teacher's scores."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from opsd_core.errors import IntegrityError
from opsd_core.records.rollouts import read_rollouts, write_rollouts
from opsd_core.records.targets import read_targets, write_targets
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling, rollout_of
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_targets, stack_targets
from opsd_core.teacher.teachers import FixedTeacher
from tests.core.small import small_policy


@pytest.fixture(scope="module")
def policy():
    return small_policy()


@pytest.fixture(scope="module")
def rollouts(policy):
    prompts = [policy.tokenizer.encode(text) for text in ("12+34=", "abc", "what is 7 ?")]
    completions = generate(policy, prompts, [1, 2, 3], Sampling(max_completion_length=7, record_top_k=4), 2)
    return [
        rollout_of((f"id{row}", 0), row, prompt, completion, policy.tokenizer.decode(completion.ids_T))
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def same(a, b):
    return all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_rollouts_round_trip_and_equal_rollouts_are_equal_bytes(rollouts, tmp_path):
    write_rollouts(tmp_path / "a.parquet", rollouts)
    write_rollouts(tmp_path / "b.parquet", rollouts)
    assert all(same(a, b) for a, b in zip(rollouts, read_rollouts(tmp_path / "a.parquet"), strict=True))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_sampling_the_same_shard_again_gives_the_same_bytes(policy, rollouts, tmp_path):
    prompts = [r.prompt_ids for r in rollouts]
    again = generate(policy, prompts, [1, 2, 3], Sampling(max_completion_length=7, record_top_k=4), 2)
    copies = [
        rollout_of((r.example_id, 0), r.seed, r.prompt_ids, completion, r.completion_text)
        for r, completion in zip(rollouts, again, strict=True)
    ]
    assert all(same(a, b) for a, b in zip(rollouts, copies, strict=True))


def test_damaged_or_foreign_files_are_refused(rollouts, tmp_path):
    path = tmp_path / "rollouts.parquet"
    write_rollouts(path, rollouts)
    with pytest.raises(IntegrityError, match="schema b'rollouts'"):
        read_targets(path)
    table = pq.read_table(path)
    field = table.schema.field("entropy")
    shorter = table.set_column(table.schema.get_field_index("entropy"), field, [pa.array([[0.0]] * 3, field.type)])
    pq.write_table(shorter, path)
    with pytest.raises(IntegrityError, match="unequal length"):
        read_rollouts(path)
    pq.write_table(table.replace_schema_metadata({"opsd.schema": "rollouts", "opsd.schema_version": "99"}), path)
    with pytest.raises(IntegrityError, match=r"version b'99'.*run the stage again"):
        read_rollouts(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(IntegrityError, match="not a readable Parquet"):
        read_rollouts(path)


def test_targets_are_the_teachers_distribution_at_the_completions_rows(policy, rollouts, tmp_path):
    teacher, hint = small_policy(seed=1), policy.tokenizer.encode("99|")
    prompts = [hint + r.prompt_ids for r in rollouts]
    targets = score_targets(FixedTeacher(teacher), rollouts, prompts, 5, Transform(0.7), max_tokens=32)
    for rollout, prompt, target in zip(rollouts, prompts, targets, strict=True):
        with torch.inference_mode():
            logits = teacher.model(input_ids=torch.tensor([prompt + rollout.completion_ids])).logits[0].float()
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1] / 0.7, -1)
        top = logprobs.topk(5)
        assert np.array_equal(target.topk_ids_TK, top.indices)
        assert np.allclose(target.topk_logprobs_TK, top.values, atol=1e-4)
        assert np.allclose(np.exp(target.tail_logprob_T), 1 - top.values.exp().sum(-1), atol=1e-5)
        sampled = logprobs.gather(1, torch.tensor(rollout.completion_ids)[:, None]).squeeze(1)
        assert np.allclose(target.sampled_logprob_T, sampled, atol=1e-4)
    write_targets(tmp_path / "targets.parquet", targets)
    assert all(same(a, b) for a, b in zip(targets, read_targets(tmp_path / "targets.parquet"), strict=True))
    stacked = stack_targets(targets, torch.device("cpu"))
    assert stacked.ids_NK.shape == (sum(len(r.completion_ids) for r in rollouts), 5)


def test_keeping_the_whole_vocabulary_leaves_no_tail(policy, rollouts):
    size = len(policy.tokenizer)
    (target, *_) = score_targets(FixedTeacher(policy), rollouts, [r.prompt_ids for r in rollouts], size, Transform(), 64)
    assert np.exp(target.tail_logprob_T).max() <= 1e-6
