"""What holds for every page: links lead somewhere, names are real, nothing tells of one machine."""

from __future__ import annotations

import re

import pytest
from doc_pages import ROOT, Page, pages, resolve

from penstock.config.schema import keys

ROOMS = sorted(path.stem for path in (ROOT / "src" / "penstock").iterdir() if not path.name.startswith("_"))
NAME = re.compile(rf"(?:penstock\.)?(?:{'|'.join(ROOMS)})(?:\.\w+)+")
FILES = {"md", "py", "yaml", "yml", "json", "toml", "txt", "csv", "sqlite", "pem"}
ENDS = (["completed"], ["failed"], ["cancelled"])


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name):
    page = Page(name)
    for target in re.findall(r"\]\(([^)]+)\)", page.text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.path.parent / path).resolve() if path else page.path
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(Page(str(found.relative_to(ROOT)))), target


@pytest.mark.parametrize("name", pages())
def test_names_of_the_source_are_real(name):
    """Dotted names in backticks, but for settings, files, and what the page's own examples call something."""
    page = Page(name)
    code = "\n".join(block.text for block in page.blocks)
    own = set(re.findall(r" as (\w+)", code))
    for each in page.named:
        words = each.split(".")
        if each.startswith("client.") and not words[1].startswith("_"):
            continue  # an SDK's; what is public in our room of that name is called penstock.client
        if words[0] == "generation" and words[1:] in ENDS:
            continue  # a webhook's
        if NAME.fullmatch(each) and each not in keys() and words[-1] not in FILES and words[0] not in own:
            resolve(each)


@pytest.mark.parametrize("name", pages())
def test_programs_that_measured_are_there(name):
    for module in re.findall(r"python -m (benchmarks[.\w]*)", Page(name).text):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("name", pages())
def test_nothing_tells_of_one_machine(name):
    text = Page(name).text
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp|Users)\b", text)
    assert not re.search(r"\b(?:TODO|FIXME|XXX)\b", text)


@pytest.mark.parametrize("name", pages())
def test_an_extra_leaves_what_make_serve_runs_the_checkout_itself(name):
    """Without -e the environment gets a copy, which no `git pull` changes any more."""
    assert not re.search(r"pip install '?\.\[", Page(name).text)


@pytest.mark.parametrize("name", pages())
def test_a_page_has_one_title(name):
    titles = re.findall(
        r"^# .+$", re.sub(r"^```.*?^```$", "", Page(name).text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    assert len(titles) == 1
    assert Page(name).text.startswith(titles[0])


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        page = Page(name)
        for target in re.findall(r"\]\(([^)#]+)", page.text):
            if "://" in target:
                continue
            found = (page.path.parent / target).resolve()
            inside = found.glob("*.md") if found.is_dir() else [found]
            waiting += [str(path.relative_to(ROOT)) for path in inside if path.suffix == ".md"]
    assert set(pages()) <= seen
