"""An iteration's completions with what is stored about each."""

from collections.abc import Sequence

from opsd_core.answers.tokens import Sampled, reader
from tasks.loaded import grades_of, rollouts_of, shared_tokenizer, stored_examples, targets_of
from tasks.refs import Ref


def recorded(shards: Sequence[Ref], graded: Ref, targets: Sequence[Ref], data: Ref, policy: Ref) -> Sampled:
    """Rollouts, grades, targets and training items; `policy` is any with the tokenizer. What the teacher read is not stored."""
    tokenizer, examples = shared_tokenizer(policy), stored_examples(data, "train").by_id()
    grades, found = grades_of(graded).by_key(), targets_of(*targets).by_key()
    return Sampled(rollouts_of(*shards), grades, reader(tokenizer), tokenizer.decode, found, examples)
