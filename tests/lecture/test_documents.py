"""Both documents say the same of the same figures, with the numbers that were measured."""

import re
import shlex

import pytest
from jinja2 import UndefinedError

from lecture import documents, runs
from lecture.slides import SLIDES

pytestmark = pytest.mark.slow


@pytest.fixture
def texts(drawn):
    """The documents by name, and the numbers that they were written with."""
    numbers = {slide.name: drawn(slide)[1] for slide in SLIDES}
    return {language.document: documents.text(language, numbers) for language in documents.LANGUAGES}, numbers


def parts(text):
    """Return what does not depend on the language: figures, commands, code and the numbers of headings."""
    return (
        re.findall(r"\]\((images/[^)]+)\)", text),
        re.findall(r"^(?: {4})?((?:aectl|make) .+)$", text, re.MULTILINE),
        [word for word in re.findall(r"`([^`\n]+)`", text) if not word.startswith("device=")],
        re.findall(r"^## (\d+)\.", text, re.MULTILINE),
    )


def test_both_languages_name_the_same_figures_and_commands(texts):
    english, portuguese = (parts(text) for text in texts[0].values())
    assert english == portuguese
    assert english[0] == [f"images/lecture/{slide.name}.png" for slide in SLIDES]
    assert english[3] == [str(i + 1) for i in range(len(SLIDES))]


def test_every_run_has_its_command_in_the_texts(texts):
    for text in texts[0].values():
        typed = {tuple(shlex.split(line)[2:]) for line in parts(text)[1] if line.startswith("aectl train")}
        assert set(runs.RUNS.values()) <= typed


def test_both_languages_tell_the_same_numbers_each_in_its_own_way(texts):
    english, portuguese = texts[0].values()
    number = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*")
    prose = [re.sub(r"```.*?```|`[^`]*`|^ {4}.*$|\]\(.*?\)", "", t, flags=re.S | re.M) for t in (english, portuguese)]
    swap = str.maketrans(".,", ",.")
    assert sorted(number.findall(prose[0])) == sorted(n.translate(swap) for n in number.findall(prose[1]))


def test_numbers_are_those_that_were_measured(texts):
    _, numbers = texts
    numbers["other_images"]["clothing"] = 0.12345
    english, portuguese = (documents.text(language, numbers) for language in documents.LANGUAGES)
    assert "0.1235" in english or "0.1234" in english
    assert "0,1235" in portuguese or "0,1234" in portuguese


def test_a_number_that_was_not_measured_is_an_error(texts):
    _, numbers = texts
    del numbers["vae_plane"]["kl"]
    with pytest.raises(UndefinedError, match="kl"):
        documents.text(documents.LANGUAGES[0], numbers)


@pytest.mark.parametrize(
    ("document", "number", "share"), [("LECTURE.md", "−1,234.5", "8.2 %"), ("AULA.md", "−1.234,5", "8,2%")]
)
def test_how_numbers_are_written(document, number, share):
    (language,) = (language for language in documents.LANGUAGES if language.document == document)
    assert (language.number(-1234.52, 1), language.share(0.0817, 1)) == (number, share)
