"""``penstock import-litellm``."""

import stat

import pytest

from penstock.config.load import load
from penstock.ledger.prices import PriceTable

SOURCE = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/PENSTOCK_TEST_KEY, mock_response: hi}
"""


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(SOURCE)
    return file


def test_the_result_goes_to_standard_output_and_the_list_to_standard_error(penstock, source):
    status, out, err = penstock("import-litellm", source)
    assert status == 0
    assert out.startswith("# Converted from config.yaml")
    assert err.splitlines() == [
        "Converted 1 upstream, 1 model, 0 keys",
        "",
        "Not converted:",
        "  model_list[].litellm_params.mock_response (gpt-4o): a model for trying out is an upstream of the kind `sim`; see docs/simulator.md",
        "",
        "Set these before you start it: PENSTOCK_TEST_KEY",
    ]


def test_the_result_passes_check(penstock, source, tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_TEST_KEY", "k")
    output = tmp_path / "penstock.yaml"
    assert penstock("import-litellm", source, "-o", output).status == 0
    assert penstock("check", output).status == 0
    assert load(output).upstreams["openai"].api_key.reveal() == "k"
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_prices_are_a_file_beside_it(penstock, source, tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_TEST_KEY", "k")
    source.write_text(SOURCE.replace("mock_response: hi", "input_cost_per_token: 0.000002"))
    output, prices = tmp_path / "mine.yaml", tmp_path / "mine-prices.toml"
    assert "with --output" in penstock("import-litellm", source).err
    prices.write_text("mine")
    status, _, err = penstock("import-litellm", source, "-o", output)
    assert (status, prices.read_text(), output.exists()) == (1, "mine", False)
    assert "--force" in err
    status, _, err = penstock("import-litellm", source, "-o", output, "--force")
    assert (status, "Not converted" in err) == (0, False)
    assert penstock("check", output).status == 0
    assert load(output).prices == str(prices)
    assert PriceTable.load(str(prices)).price("openai", "gpt-4o").input == 2


def test_a_file_that_is_there_is_not_written_over_unasked(penstock, source, tmp_path):
    output = tmp_path / "penstock.yaml"
    output.write_text("mine\n" * 1000)
    status, _, err = penstock("import-litellm", source, "-o", output)
    assert status == 1
    assert "--force" in err
    assert output.read_text().startswith("mine")
    assert penstock("import-litellm", source, "-o", output, "--force").status == 0
    assert "mine" not in output.read_text()


@pytest.mark.parametrize("text", ["", "listen: 127.0.0.1:1\nmodels: {}\n", "- a\n", "model_list: {a: 1}\n"])
def test_a_file_that_is_no_litellm_configuration_is_refused(penstock, source, tmp_path, text):
    source.write_text(text)
    status, _, err = penstock("import-litellm", source, "-o", tmp_path / "out.yaml")
    assert status == 1
    assert "is no configuration of a LiteLLM proxy: it has no model_list" in err
    assert not (tmp_path / "out.yaml").exists()


def test_what_cannot_be_read_or_written_is_one_line(penstock, source, tmp_path):
    assert "cannot be read" in penstock("import-litellm", tmp_path / "none").err
    assert "cannot be written" in penstock("import-litellm", source, "-o", tmp_path / "none" / "x").err
    source.write_bytes(b"\xff")
    assert "not UTF-8" in penstock("import-litellm", source).err
