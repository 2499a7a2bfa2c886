"""pytest tests/tasks/runtime/test_progress.py"""

import pytest
from prefect.client.schemas.actions import ArtifactCreate
from pydantic import ValidationError

from tasks.runtime.progress import artifact_key


@pytest.mark.parametrize("text", ["evaluate-opsd_ema-seed0-test", "measure-opsd:64-seed1", "Größe 1.5_b"])
def test_any_name_of_a_stage_or_campaign_becomes_a_key_that_prefect_accepts(text: str) -> None:
    with pytest.raises(ValidationError):
        ArtifactCreate(key=text)
    assert ArtifactCreate(key=artifact_key(text)).key == artifact_key(text)
