"""Fragments of the change log have the form that their README asks for, and become a section of it at a release."""

from __future__ import annotations

import datetime as dt
import importlib.util
import re

import pytest
from doc_pages import ROOT

CHANGES = ROOT / "changes.d"
FRAGMENTS = sorted(path for path in CHANGES.rglob("*.md") if path.name != "README.md")
KINDS = re.search(r"`KIND` is (.*?), and `AREA`", (CHANGES / "README.md").read_text())[1]
DAY = dt.date(2027, 1, 2)


@pytest.fixture(scope="module")
def changelog():
    spec = importlib.util.spec_from_file_location("changelog", ROOT / "scripts" / "changelog.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def project(tmp_path):
    """A project with two fragments and a version."""
    for name, text in {
        "changes.d/README.md": "# Changes\n",
        "changes.d/caching/caching.fixed.md": "A is kept.\n",
        "changes.d/caching/a.new.md": "B is kept.\n",
        "changes.d/c.removed.md": "C has gone.\n",
        "src/penstock/__init__.py": '"""Doc."""\n\n__version__ = "0.1.0"\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.relative_to(CHANGES).as_posix())
def test_a_fragment_says_a_sentence_or_two(path, changelog):
    kinds = re.findall("[a-z]+", KINDS.replace(" or ", " "))
    assert kinds == list(changelog.KINDS)
    assert re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(kinds)})\.md", path.name)
    text = path.read_text(encoding="utf-8")
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    assert not text.startswith(("#", "-", "*"))
    assert len(text) < 400


def test_the_explanation_is_short():
    lines = (CHANGES / "README.md").read_text().splitlines()
    assert len([line for line in lines if line]) <= 5


def test_every_fragment_stands_in_the_next_release(changelog):
    text = changelog.section(CHANGES)
    assert text.count("\n- ") == len(FRAGMENTS)


def test_a_release_has_a_section_by_area_and_its_name_comes_first(changelog, project):
    changelog.release(project, "0.2.0", DAY)
    assert (project / "CHANGELOG.md").read_text() == (
        "# Changes\n\n## 0.2.0 (2027-01-02)\n\n"
        "### Caching\n\n- Fixed: A is kept.\n- B is kept.\n\n"
        "### Also\n\n- Removed: C has gone.\n"
    )
    assert '__version__ = "0.2.0"\n' in (project / "src/penstock/__init__.py").read_text()
    assert [path.name for path in (project / "changes.d").rglob("*.md")] == ["README.md"]


def test_the_newest_release_stands_first(changelog, project):
    changelog.release(project, "0.2.0", DAY)
    (project / "changes.d" / "d.new.md").write_text("D is there.\n")
    changelog.release(project, "0.3.0", DAY)
    text = (project / "CHANGELOG.md").read_text()
    assert re.findall("^#{1,2} (.*)$", text, re.MULTILINE) == [
        "Changes",
        "0.3.0 (2027-01-02)",
        "0.2.0 (2027-01-02)",
    ]
    assert "\n\n\n" not in text


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0; rm", ""])
def test_what_is_no_version_is_not_released(changelog, project, version):
    with pytest.raises(SystemExit, match="is no version"):
        changelog.release(project, version, DAY)
    assert not (project / "CHANGELOG.md").exists()


def test_nothing_is_released_twice(changelog, project):
    changelog.release(project, "0.2.0", DAY)
    with pytest.raises(SystemExit, match="nothing to release"):
        changelog.release(project, "0.2.1", DAY)


def test_a_fragment_of_no_area_is_named(changelog, project):
    (project / "changes.d" / "nowhere").mkdir()
    (project / "changes.d" / "nowhere" / "e.new.md").write_text("E.\n")
    with pytest.raises(SystemExit, match=r"nowhere/e\.new\.md"):
        changelog.release(project, "0.2.0", DAY)
