"""``penstock schema``."""

import json

from penstock.config.schema import json_schema, reference


def test_it_prints_the_json_schema(penstock):
    status, out, err = penstock("schema")
    assert (status, err) == (0, "")
    assert json.loads(out) == json_schema()


def test_it_prints_the_manual_s_tables(penstock):
    assert penstock("schema", "--format", "markdown").out == reference() + "\n"
