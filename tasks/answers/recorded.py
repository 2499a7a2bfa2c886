"""An iteration's completions with what is stored about each."""

from collections.abc import Sequence

from opsd_core.answers.tokens import Sampled, reader
from opsd_core.records.grades import read_grades
from opsd_core.records.targets import read_targets
from tasks.context import local
from tasks.loaded import rollouts_of, shared_tokenizer, stored_examples
from tasks.refs import Ref


def recorded(shards: Sequence[Ref], graded: Ref, targets: Sequence[Ref], data: Ref, policy: Ref) -> Sampled:
    """Rollouts, grades, targets and training items; `policy` is any with the tokenizer. What the teacher read is not stored."""
    rollouts, tokenizer = rollouts_of(*shards), shared_tokenizer(policy)
    grades = {grade.key: grade for grade in read_grades(local(graded) / "grades.parquet")}
    found = {target.key: target for ref in targets for target in read_targets(local(ref) / "targets.parquet")}
    wanted = {rollout.example_id for rollout in rollouts}
    examples = {example.id: example for example in stored_examples(data, "train") if example.id in wanted}
    return Sampled(rollouts, grades, reader(tokenizer), tokenizer.decode, found, examples)
