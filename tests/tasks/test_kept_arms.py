"""What training an arm of a study came to is kept; that it could not be trained is kept for this revision of the code."""

import json
import uuid

import pytest

from tasks.study.arm import kept_arm


class Trainer:
    """Trains nothing, and says how often it was asked."""

    def __init__(self, failed: str) -> None:
        self.failed, self.asked = failed, 0

    def __call__(self, folder):
        self.asked += 1
        (folder / "training.json").write_text(json.dumps({"checkpoints": [], "failed": self.failed}))
        return {"costs": {}}


@pytest.fixture
def identity(stack):
    return {"arm": "opsd", "test": uuid.uuid4().hex}


def test_an_arm_that_failed_is_tried_again_by_another_revision_and_once(identity):
    refused, mended = Trainer("alignment probe: rows are shifted"), Trainer("")
    first, _ = kept_arm(identity, "a1", refused)
    again, seconds = kept_arm(identity, "a1", refused)
    assert refused.asked == 1 and again.uri == first.uri and seconds == 0
    other, _ = kept_arm(identity, "b2", refused)
    kept_arm(identity, "b2", refused)
    assert refused.asked == 2 and other.uri != first.uri
    found, _ = kept_arm(identity, "c3", mended)
    assert mended.asked == 1 and kept_arm(identity, "c3", mended) == (found, 0.0) and mended.asked == 1


def test_an_arm_that_was_trained_is_not_trained_by_another_revision(identity):
    trainer = Trainer("")
    first, _ = kept_arm(identity, "a1", trainer)
    assert kept_arm(identity, "b2", trainer) == (first, 0.0) and trainer.asked == 1
