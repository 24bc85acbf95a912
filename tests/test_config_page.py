"""docs/CONFIG.md and the metrics of docs/EVALUATION.md are up to date, and relative links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.config_page import EVALUATION_PAGE, GROUPS, PAGE, ROOT, render_page, replace_metrics

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)


def test_the_page_is_what_the_schema_and_the_yaml_files_say():
    assert PAGE.read_text(encoding="utf-8") == render_page(), "run `python -m tests.config_page`"


def test_the_metrics_are_those_that_the_tables_declare():
    text = EVALUATION_PAGE.read_text(encoding="utf-8")
    assert text == replace_metrics(text), "run `python -m tests.config_page`"


def test_every_group_of_conf_is_on_the_page():
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert groups == {*GROUPS, "experiment", "hydra"}


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text)]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"
