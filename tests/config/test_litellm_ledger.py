"""What LiteLLM has in its database of what was spent is in our ledger."""

import pytest
from test_litellm import ENVIRON, converted, left

ONE = "model_list: [{model_name: m, litellm_params: {model: openai/gpt-4o}}]\n"
BUDGET = "litellm_settings: {max_budget: 9, budget_duration: 30d}\n"


@pytest.mark.parametrize(
    ("general", "environ"),
    [
        ("database_url: os.environ/DB", {}),
        ("store_model_in_db: true", {}),
        ("disable_spend_logs: false, database_url: x", {}),
        ("master_key: k", {"DATABASE_URL": "postgresql://h/db"}),
    ],
)
def test_where_litellm_has_a_database_there_is_a_ledger(general, environ):
    conversion, config = converted(ONE + f"general_settings: {{{general}}}", ENVIRON | environ)
    assert (config.ledger.path, config.ledger.keep_days) == ("ledger.sqlite", 0)
    assert "disable_spend_logs" not in left(conversion)
    if environ:
        assert "its keys can stay" in left(conversion)["DATABASE_URL"]


@pytest.mark.parametrize("general", ["master_key: k", "database_url: x, disable_spend_logs: true"])
def test_where_litellm_writes_nothing_down_there_is_none_without_a_budget(general):
    conversion, config = converted(ONE + f"general_settings: {{{general}}}")
    assert config.ledger.path == ""
    assert ("disable_spend_logs" in left(conversion)) == ("disable" in general)
    _, config = converted(ONE + BUDGET + f"general_settings: {{{general}}}")
    assert config.ledger.path == "ledger.sqlite"


@pytest.mark.parametrize(
    ("period", "days"),
    [
        ("45d", 45),
        ("36h", 2),
        ("2w", 14),
        ("3mo", 90),
        ("90s", 1),
        ("soon", 0),
        ("0d", 0),
        ("7", 0),
        ("null", 0),
    ],
)
def test_rows_are_kept_as_long_as_litellm_keeps_them(period, days):
    said = f"database_url: x, maximum_spend_logs_retention_period: {period}"
    conversion, config = converted(ONE + f"general_settings: {{{said}}}")
    assert config.ledger.keep_days == days
    assert ("maximum_spend_logs_retention_period" in left(conversion)) == (days == 0 and period != "null")


def test_rows_that_a_months_budget_is_made_of_are_kept_for_a_month():
    said = "general_settings: {database_url: x, maximum_spend_logs_retention_period: 7d}"
    conversion, config = converted(ONE + BUDGET + said)
    assert config.ledger.keep_days == 31
    assert "budget" in left(conversion)["maximum_spend_logs_retention_period"]
