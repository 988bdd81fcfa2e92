"""A model and a text, as small as they can be."""

from __future__ import annotations

import pytest
from model_files import write_model


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("to be, or not to be\n")
    return path
