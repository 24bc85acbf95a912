"""report.html: complete, in one file, safe, and as a browser shows it."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from aectl.commands.eval_columns import describe_tables
from aectl.html_report import render
from aectl.html_report.render import split_columns
from aectl.models.base import Model
from aectl.runs.metrics_json import tables_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
RECORD = {
    "status": "interrupted",
    "command": "aectl train model=dae tags.why='<script>alert(1)</script>'",
    "choices": {"model": "dae", "dataset": "digits", "noise": "masking", "penalty": "none"},
    "device": {"name": "cpu", "model": None, "precision": "fp32", "threads": 1},
    "versions": {"python": "3.11.7", "aectl": "0.1.0"},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "objective": {"name": "val/loss", "value": 4.3871234, "epoch": 2},
    "started": "2026-01-31T12:00:00+00:00",
    "seed": 7,
    "epochs": 3,
}
SECTION = {
    "split": "test",
    "checkpoint": "best",
    "epoch": 2,
    "images": 10000,
    "seed": 0,
    "when": "2026-02-01T08:05:00+00:00",
    "reconstruction": {
        "model": {"mse": 0.00391234, "mse_ci95": 0.0000412, "psnr": 24.0756},
        "PCA-32": {"mse": 0.01683, "mse_ci95": 0.0002, "psnr": 17.74},
        "mean image": {"mse": 0.0672, "psnr": 11.73},
    },
    "likelihood": {
        "model": {"nll": 95.5, "kind": "bound", "images": 1000},
        "<i>AIS</i>": {"nll": 80.0, "kind": "estimate"},
    },
    "probes": {"model": {"linear_10": 60.0, "linear_10_sd": 4.0}},
    "noises": {
        name: {f"salt_and_pepper_{i}": level + i for i in range(9)}
        | {f"salt_and_pepper_{i}_ci95": 0.04 for i in range(9)}
        for name, level in (("model", 10.0), ("best affine", 9.0), ("noisy input of a long name", 1.0))
    },
    "settings": {"job 0": {"tags.path": "a_path/" * 30, "tags.words": "several words " * 20}},
    "verdicts": [
        {"table": "denoising", "outcome": "better", "text": "denoising 16.3 dB, <best> affine 14.8: better by 1.5"},
        {"table": "samples", "outcome": "odd", "text": "samples .9"},
    ],
    "missing": {"distances": "no judge for <b>digits</b>"},
    "titles": {"reconstruction": "reconstruction", "likelihood": "likelihood, nats per image"},
}
SECTION["columns"] = describe_tables(tables_of(SECTION), Model)


class Parsed(HTMLParser):
    """The elements of a page, its tables as rows of cells' texts, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.text, self.open = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip("\n").replace("\u200b", "").replace("\xa0", " ")


SIZES = {
    "anomalies_mnist": (300, 200),
    "learning_curves": (400, 400),
    "my_own_figure": (300, 300),
    "reconstructions": (900, 200),
    "samples": (200, 200),
}
"""Figures by name, in the order of the files, with their pixels."""


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in SIZES]
    for path, size in zip(paths, SIZES.values(), strict=True):
        Image.new("RGB", size, "steelblue").save(path)
    return paths


@pytest.fixture
def written(tmp_path, pictures):
    path = tmp_path / "report.html"
    settings = {"title": "dae on digits", "name": "<u>run</u>", "config_yaml": "tags:\n  why: </pre><script>"}
    settings |= {"commands": [RECORD["command"], "aectl eval run=x"]}
    assert render.write_page(path, **settings, record=RECORD, section=SECTION, figures=pictures) == path
    return path


@pytest.fixture
def parsed(written):
    found = Parsed(written.read_text())
    assert found.open == []
    return found


def test_it_asks_for_nothing_outside_itself(written, parsed):
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, value)
    style = re.search(r"<style>(.*?)</style>", written.read_text(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    policy = [a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_what_users_typed_is_text_and_no_markup(written, parsed):
    assert not [tag for tag, _ in parsed.elements if tag in ("script", "i", "iframe", "u", "best")]
    assert "<script" not in written.read_text()
    assert "<script>alert(1)</script>" in parsed.text
    assert "</pre><script>" in parsed.text
    assert "no judge for <b>digits</b>" in parsed.text


def test_tables_are_complete(parsed):
    reconstruction, likelihood, probes, *noises, _ = parsed.tables
    assert reconstruction == [
        ["row", "mse ↓", "psnr ↑"],
        ["dae", "0.003912", "± 0.000041", "24.08"],
        ["PCA-32", "0.01683", "± 0.00020", "17.74"],
        ["mean image", "0.06720", "", "11.73"],
    ]
    assert likelihood == [
        ["row", "nll ↓", "kind", "images"],
        ["dae", "95.50", "bound", "1000"],
        ["<i>AIS</i>", "80.00", "estimate", ""],
    ]
    assert probes[1] == ["dae", "60.0", "± 4.0"]
    assert "the standard deviation for linear_10" in parsed.text
    # Wider than a screen, and so in two parts, each with the names of the rows.
    assert [[row[0] for row in part] for part in noises] == [
        ["row", "dae", "best affine", "noisy input of a long name"]
    ] * 2
    assert [name for part in noises for name in part[0][1:]] == [f"salt_and_pepper_{i} ↑" for i in range(9)]
    assert [row[-2:] for row in noises[1]][1:] == [["18.000", "± 0.040"], ["17.000", "± 0.040"], ["9.000", "± 0.040"]]


def test_the_best_is_marked_among_rows_measured_alike(written):
    best = re.findall(r'class="best">([^<]*)<', written.read_text())
    assert best == ["0.003912", "24.08", *[f"{10 + i}.000" for i in range(9)]]
    assert written.read_text().count('<tr class="model">') == 5


def test_a_pca_that_nearly_copies_is_not_marked_and_a_smaller_one_is_explained(tmp_path):
    rows = {"model": {"mse": 0.03}, "PCA-60": {"mse": 2e-5}, "mean image": {"mse": 0.07}}
    section = {"split": "test", "images": 360, "reconstruction": rows, "codes": {"model": {"units": 64.0}}}
    section["columns"] = describe_tables({"reconstruction": rows}, Model)
    text = render.write_page(tmp_path / "r.html", title="x", commands=[], section=section).read_text()
    assert re.findall(r'class="best">([^<]*)<', text) == ["0.03000"]
    assert "360 test images · PCA-60 nearly copies the image (over 99.9 % of the variance), not counted as best" in text
    assert "PCA-60: fewer components than the code has units (64): the rank of the training images." in text


def test_each_number_is_named_by_split_and_each_column_explained(parsed):
    assert parsed.text.count("\n10000 test images") == 0
    assert parsed.text.count("\n10,000 test images\n") == 4
    assert parsed.text.count("\n1,000 test images\n") == 1
    assert "mse: mean squared error per pixel" in re.sub(r"(mse)(mean)", r"\1: \2", parsed.text)
    assert parsed.text.count("PSNR of the restored images under this noise, in dB") == 1


def test_tables_of_earlier_evaluations_say_so(tmp_path):
    origin = {"checkpoint": "best", "epoch": 2, "settings": "seed=0", "when": "2026-02-01T08:00:00+00:00"}
    made = {
        "reconstruction": {
            **origin,
            "epoch": 1,
            "stale": "best.pt has changed since epoch 1",
            "when": "2026-01-30T10:30:00+00:00",
        },
        "likelihood": {**origin, "checkpoint": "last", "settings": "seed=3 nll_images=10"},
        "probes": origin,
    }
    section = {**SECTION, "made": made, "quick": "quick look: 500 of 10,000 test images"}
    found = Parsed(render.write_page(tmp_path / "r.html", title="x", commands=[], section=section).read_text())
    assert "after epoch 2 · quick look: 500 of 10,000 test images\n" in found.text
    notes = [line for line in found.text.splitlines() if "test images · " in line]
    assert notes == [
        "10,000 test images · stale: best.pt has changed since epoch 1 · computed 30 January 2026, 10:30 UTC",
        "1,000 test images · checkpoint last, epoch 2, seed=3",
    ]
    assert found.elements.count(("b", {"class": "other"})) == 1


def test_verdicts_and_pictures_come_before_the_tables_and_the_tables_before_what_made_them(parsed):
    words = ("dae on digits", "denoising 16.3 dB", "samples .9", "Losses and metrics", "Samples drawn", "±: half")
    words += ("Reconstruction\n", "Not measured\n", "How it was made\n", "aectl eval run=x", "cpu, fp32", "tags:")
    places = [parsed.text.rindex(word) for word in words]
    assert places == sorted(places)
    assert ("li", {"class": "better"}) in parsed.elements
    assert ("li", {}) in parsed.elements


def test_pictures_are_embedded_with_captions_and_texts_for_who_cannot_see(parsed):
    images = [attributes for tag, attributes in parsed.elements if tag == "img"]
    order = ["reconstructions", "learning_curves", "samples", "anomalies_mnist", "my_own_figure"]
    assert [(int(image["width"]), int(image["height"])) for image in images] == [SIZES[name] for name in order]
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") and len(image["alt"]) > 10 for image in images)
    assert "My own figure." in parsed.text and "held-out images from mnist." in parsed.text
    # Learning curves are large whatever their shape.
    assert [a.get("class") for tag, a in parsed.elements if tag == "figure"] == ["wide", "wide", None, None, None]


def test_wide_tables_are_split_into_even_parts():
    assert split_columns([100] * 8, 1000) == [(0, 8)]
    assert split_columns([100] * 8, 500) == [(0, 4), (4, 8)]
    assert split_columns([100] * 9, 400) == [(0, 3), (3, 6), (6, 9)]
    assert split_columns([900, 100, 100], 500) == [(0, 1), (1, 2), (2, 3)]
    assert split_columns([], 500) == [(0, 0)]
    assert split_columns([100, 100], -5) == [(0, 1), (1, 2)]
    for widths in ([120, 80, 300, 40, 250, 90, 310, 60], [399] * 5, [10] * 50):
        parts = split_columns(widths, 400)
        assert all(sum(widths[first:last]) <= 400 for first, last in parts)
        assert [i for first, last in parts for i in range(first, last)] == list(range(len(widths)))


def test_the_head_says_what_it_is_about(parsed):
    words = (
        "10,000 test images",
        "after epoch 2",
        "interrupted",
        "1 February 2026, 08:05 UTC",
        "<u>run</u>",
        "cpu, fp32, 1 thread",
        "0123456789, with changes",
        "val/loss 4.387 in epoch 2, on validation images",
        "aectl eval run=x",
    )
    assert [word for word in words if word not in parsed.text] == []


def test_a_record_that_tells_little_makes_a_page_too(tmp_path):
    path = render.write_page(tmp_path / "r.html", title="x", commands=[], record={}, section={"split": "test"})
    found = Parsed(path.read_text())
    assert found.tables == []
    assert "None" not in found.text


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
def test_a_browser_shows_it_without_a_page_that_scrolls_sideways(written):
    """The page in frames of a phone's and a screen's width, measured from outside, since it runs no script itself.

    Tables scroll in boxes of their own on the phone, and not at all on the screen.
    """
    frames = "".join(f'<iframe src="{written.name}" width="{w}" height="900"></iframe>' for w in (400, 1280))
    script = """onload = () => document.body.append(JSON.stringify([...document.querySelectorAll('iframe')].map(f => {
        const d = f.contentDocument, images = [...d.images]
        const boxes = [...d.querySelectorAll('.scroll')]
        return [d.documentElement.scrollWidth, images.filter(i => i.naturalWidth).length,
                boxes.filter(b => b.scrollWidth > b.clientWidth).length > 0, d.querySelectorAll('tbody tr').length,
                f.contentWindow.performance.getEntriesByType('resource')
                .filter(e => !e.name.startsWith('data:')).length] })))"""
    outer = written.with_name("outer.html")
    outer.write_text(f"<!doctype html><body>{frames}<script>{script}</script>")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
    command = (BROWSER, *flags, f"--user-data-dir={written.parent / 'profile'}", "--window-size=1700,1000")
    shown = subprocess.run([*command, "--dump-dom", outer.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r"\[\[.*?\]\]", html.unescape(shown.stdout.split("</script>")[-1]))
    assert found, shown.stderr
    assert found[0] == "[[400,5,true,13,0],[1280,5,false,13,0]]"
