"""docs/LECTURE.md and docs/AULA.md, from the templates beside this file: texts, commands, figures and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lecture import runs
from lecture.lab import Numbers
from lecture.slides import SLIDES

IMAGES = Path("images/lecture")
"""Where the figures lie, seen from the documents."""


@dataclass(frozen=True)
class Language:
    """A template, the document that it becomes, and how numbers are written there."""

    template: str
    document: str
    decimal: str
    thousands: str
    percent: str

    def number(self, value: float, digits: int = 0) -> str:
        """Write a number with so many digits behind the decimal sign."""
        signs = str.maketrans({".": self.decimal, ",": self.thousands, "-": "−"})
        return f"{float(value):,.{digits}f}".translate(signs)

    def share(self, value: float, digits: int = 0) -> str:
        """Write a share of 1 in percent."""
        return self.number(100 * value, digits) + self.percent


LANGUAGES = (
    Language("lecture.md.j2", "LECTURE.md", ".", ",", " %"),
    Language("aula.md.j2", "AULA.md", ",", ".", "%"),
)


def write(folder: Path, numbers: Mapping[str, Numbers]) -> list[Path]:
    """Write the documents into `folder` with the numbers that were measured, by figure; return their paths.

    Raises jinja2.UndefinedError where a text asks for a number that was not measured.
    """
    paths = []
    for language in LANGUAGES:
        path = folder / language.document
        path.write_text(text(language, numbers), encoding="utf-8")
        paths.append(path)
    return paths


def text(language: Language, numbers: Mapping[str, Numbers]) -> str:
    """Return a document in Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, of our own texts
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": language.number, "share": language.share}
    return environment.get_template(language.template).render(numbers, figure=figure, count=len(runs.RUNS))


def figure(name: str, caption: str) -> str:
    """Return a figure below the commands that train what it is drawn from, and the runs' names in the same order."""
    (slide,) = (slide for slide in SLIDES if slide.name == name)
    # Not as comments behind the commands: pasted into a zsh these would be arguments.
    commands = "\n".join(runs.command(run) for run in slide.runs)
    names = ", ".join(f"`{run}`" for run in slide.runs)
    return f"```sh\n{commands}\n```\n\n→ {names}\n\n![{caption}]({IMAGES / name}.png)"
