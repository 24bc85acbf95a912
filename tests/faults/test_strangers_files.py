"""Links out of a stranger's run folder, and what its texts do to a terminal, a page, a table calculator or a shell."""

import csv
import io
import json
import os
import re
from html.parser import HTMLParser

import pytest

from aectl import leaderboard
from aectl.cli import completion
from aectl.config import ConfigError
from aectl.config.untrusted_files import check_links
from aectl.html_report import render
from aectl.leaderboard.files import format_code
from aectl.runs import listing
from aectl.runs.run import Run, find_run
from aectl.system.terminal import make_console

LINKS = {
    "figures": "eval",
    "report.html": "eval",
    "metrics.json": "eval",
    "figures/samples.png": "eval",
    "events.out.tfevents.1": "eval",
    "images": "eval",
    "export": "eval",
    "samples": "sample",
    "samples/prior.npz": "sample",
    "checkpoints": "train",
    "metrics.csv": "train",
    "train.log": "train",
    ".lock": "train",
    ".hydra.1": "train",
    "run.json.1": "train",
}


TYPED = ("report.html", "samples", "train.log")
"""Of these links the commands are typed in the short form too, one of each."""


def typed(command, run):
    """Return the words of a command on a run."""
    return ("train", f"resume={run}", "epochs=4") if command == "train" else (command, f"run={run}")


@pytest.fixture
def victim(tmp_path):
    """A folder and a file of the reader's own."""
    place = tmp_path / "home"
    place.mkdir()
    (place / ".bashrc").write_text("alias ls=ls\n")
    return place


def link(path, target):
    """Put a link in the place of a file or folder."""
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rename(path.with_name("was"))
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_by_way_of_a_link(kept, aectl, victim, torture, name, tally):
    targets = [victim, victim / ".bashrc", victim / "new"]
    for number, target in enumerate(targets if torture else targets[len(name) % 3 :][:1]):
        run = kept(to=f"run{number}")
        link(run / name, target)
        with pytest.raises(ConfigError, match="is a link to"):
            check_links(run)
        if torture or name in TYPED:
            code, _, said = aectl(*typed(LINKS[name], run))
            assert code == 2
            assert "is a link to" in said
        assert [path.name for path in victim.iterdir()] == [".bashrc"]
        assert (victim / ".bashrc").read_text() == "alias ls=ls\n"
        tally("links refused")


def test_links_within_a_run_are_no_matter_and_pipes_are(kept, aectl, tmp_path):
    run = kept()
    (run / "same").symlink_to(run / "checkpoints")
    (run / "round").symlink_to(run / "round2")
    (run / "round2").symlink_to(run / "round")
    assert "is a link to" in aectl("eval", f"run={run}")[2]
    (run / "round").unlink()
    (run / "round2").unlink()
    assert aectl("eval", f"run={run}", "only=[codes]", "figures=false")[0] == 0
    os.mkfifo(run / "report.html")
    assert "neither a file nor a folder" in aectl("eval", f"run={run}")[2]


def test_a_list_of_runs_takes_no_lock_by_way_of_a_link_and_waits_for_no_pipe(
    kept, victim, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    taken = []
    monkeypatch.setattr(listing.FileLock, "acquire", lambda self, **rest: taken.append(self.lock_file))
    for number, name in enumerate(("run.json", "metrics.json", ".lock")):
        run = kept(to=f"outputs/run{number}")
        with_record(run, status="running")
        link(run / name, victim / ".bashrc")
    pipes = kept(to="outputs/pipes")
    for name in ("run.json", "metrics.json", ".lock"):
        (pipes / name).unlink(missing_ok=True)
        os.mkfifo(pipes / name)
    listing.print_runs()
    assert not [path for path in taken if "run2" in path]
    assert len(capsys.readouterr().out.splitlines()) == 7


def with_record(run, **entries):
    """Change entries of run.json."""
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\rok\u202e[red]x[/red][link=http://evil]y[/link]:skull:"
MARKUP = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(1)><a href=\"javascript:alert(1)\" onclick='x'>{{7*7}}{%x%}"
)
FORMULA = "=cmd|'/c calc'!A1"


def hostile(run, text):
    """Put a text wherever a run's record and numbers have one; `EVIL` would be obeyed by a terminal."""
    choices = {"model": text, "dataset": text, "noise": text, "penalty": text}
    with_record(
        run,
        choices=choices,
        status=text,
        objective={"name": text, "value": 1.5, "epoch": 2},
        command=text,
        overrides=[f"model.code={text}", f"{text}=1"],
        started=text,
        host=text,
        versions={text: text},
        git={"commit": text},
        device={"name": text, "model": text, "precision": text, "threads": 2},
    )
    row = {"mse": 0.5, "mse_ci95": 0.1, text: 1.0, "kind": text}
    section = {
        "split": text,
        "checkpoint": text,
        "epoch": 3,
        "images": 360,
        "when": text,
        "titles": {"reconstruction": text, text: text},
        "reconstruction": {"model": row, text: row},
        text: {"model": row, f"model, {text}": row},
        "missing": {text: text},
    }
    (run / "metrics.json").write_text(json.dumps({"test": section, text: {"checkpoint": 1}}))
    return section


def controls(text):
    """Return the characters in a text, its line ends apart, that a terminal would obey or hide."""
    return sorted({character for character in text if not (character.isprintable() or character == "\n")})


def test_a_terminal_obeys_no_text_of_a_run(kept, aectl, tmp_path, monkeypatch, capsys, tally):
    first, second = kept(to="outputs/one"), kept("rbm", to=f"outputs/{EVIL.replace('/', '')}")
    for run in (first, second):
        hostile(run, EVIL)
    monkeypatch.chdir(tmp_path)
    listing.print_runs()
    leaderboard.show(leaderboard.build_boards([first, second]))
    out = capsys.readouterr().out
    assert not controls(out)
    assert "[red]x[/red][link=http://evil]" in out
    assert ":skull:" in out
    lines = []
    for gap in ("--", "\n"):
        with_record(first, choices={"model": f"a{gap}b", "dataset": f"c{gap}d"})
        listing.print_runs()
        lines.append(len(capsys.readouterr().out.splitlines()))
    assert lines[0] == lines[1]
    for words in (
        ("train", f"{EVIL}=1"),
        ("eval", f"run={EVIL}"),
        ("sample", f"run={first}", "kind=x"),
    ):
        _, out, said = aectl(*words)
        assert not controls(out + said), words
    tally("texts made harmless", 5)


def test_rich_makes_no_markup_of_a_text_and_passes_no_control_on(capsys):
    out = make_console()
    out.print(EVIL)
    assert not controls(said := capsys.readouterr().out)
    assert "[red]x[/red]" in said


class Elements(HTMLParser):
    """What a browser would find on a page."""

    def __init__(self):
        super().__init__()
        self.found, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_a_page_holds_a_strangers_texts_as_texts(kept, tmp_path, tally):
    run = kept()
    section = hostile(run, MARKUP)
    picture = tmp_path / f"{MARKUP.replace('/', '')}.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + (10).to_bytes(4, "big") * 2)
    written = render.write_page(
        run / "report.html",
        title=MARKUP,
        name=MARKUP,
        commands=[MARKUP],
        config_yaml=MARKUP,
        record=Run(run).record,
        section=section,
        figures=[picture],
    )
    parsed = Elements()
    parsed.feed(written.read_text())
    tags = {tag for tag, _ in parsed.found}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "svg", "math", "input", "button"}
    names = {name for _, attributes in parsed.found for name in attributes}
    assert not [name for name in names if name.startswith("on") or not re.fullmatch(r"[a-z-]+", name)]
    links = [value for _, attributes in parsed.found for key, value in attributes.items() if key in ("href", "src")]
    assert all(value.startswith(("#", "data:image/png;base64,", "data:,")) for value in links)
    assert sum(MARKUP[:40] in text for text in parsed.texts) > 10
    assert "49" not in "".join(text for text in parsed.texts if "alert" in text)
    tally("texts made harmless")


def test_a_table_calculator_is_given_no_formula_and_markdown_no_markup(kept, tmp_path, tally):
    for number, text in enumerate((FORMULA, "+1+1", "-2+3", "@SUM(A1)", "\t=1", f"`|{MARKUP}\n# x", "javascript:x")):
        runs = [kept(to=f"{number}-one"), kept("rbm", to=f"{number}-`{text.replace('/', '')}")]
        for run in runs:
            hostile(run, text)
        boards = leaderboard.build_boards(runs)
        table, markdown = leaderboard.write(tmp_path / f"board{number}", boards)
        cells = [cell for row in csv.reader(io.StringIO(table.read_text())) for cell in row]
        assert not [cell for cell in cells if cell[:1] in "=@\t\r+" and cell] + [c for c in cells if c.startswith("-2")]
        # Neither outside of code nor, but for its fence, within it.
        lines = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown.read_text()).splitlines()
        assert not [line for line in lines if re.search(r"(?<!\\)[<>\[\]]", line)]
        for part in "\n".join(lines).split("\n\n"):
            bars = {len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines() if line.startswith("|")}
            assert len(bars) <= 1, part
        assert not any(line.startswith("# ") for line in lines)
        tally("texts made harmless", 2)


def test_code_is_fenced_by_more_than_it_holds():
    assert format_code("a`b``c|d") == "``` a`b``c\\|d ```"
    assert format_code("outputs/a b") == "`outputs/a b`"


def test_a_leaderboard_replaces_a_link_and_writes_not_by_way_of_it(kept, victim, tmp_path, tally):
    boards = leaderboard.build_boards([kept()])
    for name in ("leaderboard.csv", "leaderboard.md"):
        (tmp_path / name).symlink_to(victim / ".bashrc")
    leaderboard.write(tmp_path, boards)
    assert (victim / ".bashrc").read_text() == "alias ls=ls\n"
    tally("links refused", 2)


NUMBERS = [
    "x",
    None,
    True,
    [1],
    {"a": 1},
    10**400,
    -(10**400),
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    "\x1b[2J",
]


def places(section):
    """Yield changes that put a value at each place of an evaluation."""
    yield "images", lambda value: section.update(images=value)
    yield "epoch", lambda value: section.update(epoch=value)
    yield "titles", lambda value: section.update(titles=value)
    yield "title", lambda value: section["titles"].update(codes=value)
    yield "missing", lambda value: section.update(missing=value)
    yield "table", lambda value: section.update(reconstruction=value)
    yield "row", lambda value: section["reconstruction"].update(model=value)
    yield "number", lambda value: section["reconstruction"]["model"].update(mse=value)
    yield "spread", lambda value: section["reconstruction"]["model"].update(mse_ci95=value)
    yield "verdicts", lambda value: section.update(verdicts=value)
    yield "verdict", lambda value: section.update(verdicts=[{"table": value, "outcome": "better", "text": "x"}])
    yield "text", lambda value: section["reconstruction"]["model"].update(kind=value)


def test_numbers_that_are_none_are_told_in_a_line(kept, tmp_path, capsys, torture, tally):
    runs = [kept(to="one"), kept(to="two")]
    with_record(runs[1], overrides=["seed=1"], seed=1)
    whole = (runs[0] / "metrics.json").read_text()
    for number in range(12):
        for value in NUMBERS if torture else NUMBERS[number % 3 :: 3]:
            content = json.loads(whole)
            name, change = list(places(content["test"]))[number]
            change(value)
            (runs[0] / "metrics.json").write_text(json.dumps(content))
            try:
                found = leaderboard.build_boards(runs)
                leaderboard.show(found)
                leaderboard.write(tmp_path / "board", found)
            except ConfigError as error:
                assert "is damaged: test." in str(error), (name, value)
                assert len(str(error).splitlines()) == 1
            assert not controls(capsys.readouterr().out)
            listing.describe_run(runs[0])
            tally("damaged numbers reported")


@pytest.mark.parametrize("value", [*NUMBERS, [[[]]], {"name": 5, "value": "x"}, {"value": 10**400}], ids=repr)
def test_a_record_of_other_kinds_is_told_in_a_line(kept, value, tally):
    run = kept()
    whole = json.loads((run / "run.json").read_text())
    for key in whole:
        (run / "run.json").write_text(json.dumps({**whole, key: value}))
        listing.describe_run(run)
        try:
            _ = Run(run).record
        except ConfigError as error:
            assert f"its '{key}' is not what aectl writes there" in str(error)
        tally("damaged records reported")


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "", "[1]", "nul", '{"a": ' + "9" * 5000 + "}", "\x00", '"x"'])
def test_json_that_is_none_is_told_in_a_line(kept, content):
    run = kept(to="outputs/run")
    (run / "metrics.json").write_text(content)
    assert Run(run).metrics == {}
    (run / "run.json").write_text(content)
    assert listing.describe_run(run)[2] == "damaged"
    with pytest.raises(ConfigError, match=r"cannot be read|is damaged") as caught:
        find_run(str(run))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["$(touch x)", "`touch x`", "a;touch x", "a b", "a&b", "a>b", "a'b", 'a"b', "a\nb", "~x*"]
)
def test_tab_puts_no_command_into_the_line(kept, tmp_path, monkeypatch, capsys, name, tally):
    kept(to="outputs/plain")
    kept(to=f"outputs/{name}")
    monkeypatch.chdir(tmp_path)
    completion.suggest("aectl eval run=", "query=bash")
    assert capsys.readouterr().out == "run=latest run=outputs/plain\n"
    tally("attacks refused")


def test_a_reference_that_is_none_is_told_in_a_line(kept, aectl):
    run = kept()
    path = run / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("reference: {}", "reference: {x: {table: [1], row: {}}}"))
    code, _, said = aectl("eval", f"run={run}", "only=[codes]", "figures=false")
    assert code == 2
    assert "reference.x must have a table" in said
