"""pytest tests/core/config/test_secret_addresses.py — an address with a secret is refused by its setting and never shown."""

import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_core.addresses import NO_SECRET, bare, holds_secret
from opsd_core.config import CampaignConfig, resolve
from opsd_core.errors import ConfigError

SECRET = "s3cr3tw0rd0123456789"
HOLDING = [
    f"https://me:{SECRET}@host.example/x.jsonl",
    f"https://:{SECRET}@host.example/x.jsonl",
    f"https://{SECRET}@host.example/x.jsonl",
    f"https://me:a/{SECRET}@host.example:80/x",
    f"s3://me:{SECRET}@bucket/x.jsonl",
    f"s3://bucket/x.jsonl?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}",
    f"https://host/x.jsonl?versionId=1&sig={SECRET}&se=2026",
    f"https://host/x.jsonl?token={SECRET}",
    f"https://host/x.jsonl?access_token={SECRET}#part",
    f"https://host/x.jsonl?api-key={SECRET}",
    f"https://host/x.jsonl?x-goog-signature={SECRET}",
]
PLAIN = [
    "https://host:5000/a@b/x.jsonl", "s3://bucket/a@b.jsonl", "models:/name@champion", "opsd:name@champion", "owner/name",
    "https://host/x.jsonl?download=1&versionId=3", "tiny", "git@host:x", "https://user@host/x.jsonl", "a?token=b",
    "/folder/a:b@c",
]  # fmt: skip
FIELDS = {
    "model.source": lambda text: {"model": {"source": text}},
    "data.source": lambda text: {"data": {"source": text}},
    "teacher.source": lambda text: {"teacher": {"weights": "external", "source": text}},
    "teacher.peers": lambda text: {"teacher": {"weights": "peers", "peers": ["tiny", text]}},
    "rehearsal.data": lambda text: {"rehearsal": {"share": 0.1, "data": [{"source": text}]}},
    "prompts.system": lambda text: {"prompts": {"system": f"Look at {text}"}},
}


@pytest.mark.parametrize("text", HOLDING)
@pytest.mark.parametrize("field", FIELDS)
def test_it_is_refused_by_its_setting(field, text):
    with pytest.raises(ConfigError, match=re.escape(field) + r".*holds a password, signature or token") as caught:
        resolve("tiny", FIELDS[field](text))
    assert SECRET not in str(caught.value) and "***" in str(caught.value)


@pytest.mark.parametrize("text", PLAIN)
def test_an_address_without_one_stays_as_it_is(text):
    assert bare(text) == text or text == "a?token=b"
    assert not holds_secret(text)
    jsonschema.validate(text, NO_SECRET)


@pytest.mark.parametrize("text", HOLDING)
def test_the_schema_of_the_settings_refuses_the_same(text):
    assert SECRET not in bare(text) and holds_secret(text)
    schema = CampaignConfig.model_json_schema()
    parts = schema["$defs"]
    rules = [parts["ModelConfig"]["properties"]["source"], parts["DataConfig"]["properties"]["source"]]
    rules += [parts["TeacherConfig"]["properties"]["source"], parts["TeacherConfig"]["properties"]["peers"]["items"]]
    for rule in rules:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(text, rule)


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters=" /'\"", exclude_categories=["Cc"]), min_size=8))
def test_any_password_goes(password):
    assert password not in bare(f"see https://user:{password}@host/x for it").replace("***", "").replace("host/x", "")
