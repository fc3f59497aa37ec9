"""The schemas of the package's files."""

from __future__ import annotations

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from sga_monai.core.schema import record, validate
from sga_monai.evaluation.embedding import embedding_schema
from sga_monai.experiments import plan_file
from sga_monai.hospital import approval, development, protocol, reference, release, selftest


@pytest.mark.parametrize("module", [approval, development, plan_file, protocol, reference, release, selftest])
def test_every_schema_is_one(module):
    Draft202012Validator.check_schema(module.SCHEMA)


def test_the_schema_of_an_embedding_is_one():
    Draft202012Validator.check_schema(embedding_schema(512))


def test_content_is_compared_as_jsonschema_does():
    schema = record(limits={"type": "array", "items": record(limit={"type": "number"})}, site={"type": "string"})
    validate({"limits": [{"limit": 1}], "site": "A"}, schema)
    for content in (
        {"limits": [], "site": 1},
        {"limits": [{"limit": "1"}], "site": "A"},
        {"limits": []},
        {"limits": [], "site": "A", "x": 1},
        [],
    ):
        with pytest.raises(jsonschema.ValidationError) as ours:
            validate(content, schema)
        with pytest.raises(jsonschema.ValidationError) as theirs:
            jsonschema.validate(content, schema)
        assert (ours.value.message, ours.value.absolute_path) == (theirs.value.message, theirs.value.absolute_path)
