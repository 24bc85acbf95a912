"""Tables at every width: row names stay whole, numbers are never cut."""

import io
import re

import pytest
from rich.console import Console

from aectl.commands.eval_run import print_rows
from aectl.system.terminal import make_console, wrap_text
from aectl.system.terminal_table import Column, cell_width, format_rows_with_paths, print_table, split_into_blocks

WIDTHS = (40, 60, 80, 120)
NOISES = ("none", "gaussian_0.5", "gaussian_1", "masking_0.25", "masking_0.75", "salt_and_pepper_0.25")
TABLES = {
    "noises": {
        name: {key: value for noise in NOISES for key, value in ((noise, 17.1523), (f"{noise}_ci95", 0.0361))}
        for name in ("model", "best affine", "noisy input")
    },
    "long names": {
        name: {"mse": 0.0123456, "mse_ci95": 0.000123, "nearest_train": 1234567.0}
        for name in (
            "held-out images, by the judge",
            "model, " + "reverse AIS " * 9,
            "x" * 130,
            "深層学習の自己符号化器" * 5,
        )
    },
    "huge numbers": {"model": {f"auroc_excluded_classes_of_{i}": -1.23456e-300 for i in range(9)}},
    "texts": {
        f"row {i}": {
            "measure": "nll",
            "ours": 85.123,
            "ours_ci95": 0.2,
            "verdict": "PASS",
            "source": "table 1 of " * 12,
        }
        for i in range(2)
    },
    "one": {"model": {"mse": 0.5}},
    "no column": {"model": {}},
}


@pytest.fixture
def at(monkeypatch):
    """Return a console of so many columns and what is printed to it."""

    def console_of(width):
        monkeypatch.setenv("COLUMNS", str(width))
        out = make_console()
        out.file = io.StringIO()
        assert out.width == width
        return out

    return console_of


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("table", TABLES)
def test_row_names_and_numbers_stay_whole(table, width, at):
    out, rows = at(width), TABLES[table]
    print_rows(out, table, rows, ())
    text = out.file.getvalue()
    lines = text.splitlines()
    assert "…" not in text
    assert max(map(cell_width, lines)) <= width
    squeezed = re.sub(r"\s", "", text)
    for name, row in rows.items():
        # A name of up to half the width stands in one line, in each block; a longer one is wrapped, and lacks nothing.
        if cell_width(name) <= width // 2:
            assert sum(line.startswith(name) for line in lines) == text.count(table)
        for measure in (key for key in row if not key.endswith("_ci95")):
            assert measure in squeezed
    for number in ("17.152 ± 0.036", "0.01235 ± 0.00012", "1.235e+06", "-1.235e-300", "85.12 ± 0.20"):
        if number in (wide := printed_wide(rows)):
            assert text.count(number) == wide.count(number), number
    assert text.count(table) == 1 + text.count(f"{table}, continued")


def printed_wide(rows):
    out = Console(file=io.StringIO(), width=10_000)
    print_rows(out, "", rows, ())
    return out.file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_name_is_wrapped_next_to_its_numbers(width, at):
    out, name = at(width), "_".join(f"part{i}" for i in range(40))
    print_table(out, Column("", [name, "short"]), [Column("mse", ["1.5", "2.5"]), Column("psnr", ["3.5", "4.5"])])
    lines = out.file.getvalue().splitlines()
    rows = [[cell for cell in re.split(r"\s{2,}", line.strip()) if cell] for line in lines[1:]]
    assert rows[0][1:] == ["1.5", "3.5"]
    assert rows[-1] == ["short", "2.5", "4.5"]
    assert "".join(row[0] for row in rows[:-1]) == name


def test_all_blocks_give_the_names_the_same_width(at):
    out, name = at(40), "a name of 31 characters, wrapped"
    print_table(out, Column("", [name]), [Column("a", ["1"]), *[Column("x" * 18, ["2"]) for _ in range(3)]])
    assert out.file.getvalue().count("\na name of 31  ") == out.file.getvalue().count("\ncharacters, wrapped") == 4


def test_blocks_are_as_few_as_fit_and_repeat_the_names():
    columns = [Column(f"metric {i}", ["1.000"]) for i in range(7)]
    names = Column("", ["model"])
    assert [len(block) for block in split_into_blocks(names, columns, 25)] == [2, 2, 2, 1]
    assert [len(block) for block in split_into_blocks(names, columns, 75)] == [7]
    assert [len(block) for block in split_into_blocks(names, [], 75)] == [0]


@pytest.mark.parametrize("width", [1, 5, 12, 20])
def test_a_terminal_that_holds_nothing_ends_in_no_error(width, at):
    for name, rows in TABLES.items():
        print_rows(at(width), name, rows, ())


def test_control_characters_are_shown_as_escapes(at):
    out = at(80)
    print_rows(out, "title\x1b[2J", {"model\x1b[31m": {"kind\x07": "a\u202eb [red]x[/red]", "mse": 0.5}}, ())
    text = out.file.getvalue()
    assert r"model\x1b[31m" in text and r"kind\x07" in text and "[red]x[/red]" in text
    assert "\x1b" not in text


def test_a_file_is_as_wide_as_columns_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "77")
    assert make_console().width == make_console(100).width == 77
    monkeypatch.setenv("COLUMNS", "wide")
    assert (make_console().width, make_console(100).width) == (200, 100)
    monkeypatch.delenv("COLUMNS")
    assert (make_console().width, make_console(100).width) == (200, 100)


@pytest.mark.parametrize("width", [20, *WIDTHS, 200])
def test_a_row_with_its_path_takes_as_many_lines_as_it_needs(width):
    headings = ["model", "data", "status", "objective", "age", "MB", "evaluated"]
    row = ["undercomplete", "fashion_mnist", "interrupted", "val/loss 0.005432", "3 min", "12.3", "test, valid"]
    path = "outputs/fashion_mnist/undercomplete/2026-11-27_05-24-30-532730"
    lines = format_rows_with_paths(headings, [row, ["dae", *row[1:]]], [path, path], width)
    assert sum(line.rstrip().endswith(path) for line in lines) == 2
    text = " ".join(" ".join(lines).split())
    assert text.count(" ".join([*row[1:], path])) == 2
    assert all(cell_width(line) <= width or path in line for line in lines)
    assert len(lines) == {200: 3, 120: 5, 80: 8, 60: 8, 40: 11, 20: 20}[width]


def test_prose_is_wrapped_between_words_and_no_word_is_broken():
    path = "outputs/train/2026-11-27_07-18-08-255758/a-very-long-name"
    text = f"val/loss cannot be compared between these jobs, since its definition contains noise.std: see {path}"
    lines = wrap_text(Console(width=40), text).split("\n")
    assert " ".join(line.strip() for line in lines) == text
    assert lines[-1].strip() == path and max(map(len, lines[:-1])) <= 40
