"""The notebook of codes runs on any run that encodes and decodes, and the stored one is clean and whole.

Its stored outputs are made anew, after a change of its cells, by
    aectl train model=undercomplete epochs=8 && python tests/test_notebook.py
"""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import aectl as package
from aectl.config import ConfigError

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/notebooks/codes.ipynb"
PRINTS = {"encode", "neighbours"}
DRAWS = {"encode", "plane", "walk", "means", "difference", "unit", "neighbours", "noise"}
ABSOLUTE = re.compile(r"(?<![\w.~<:/…])/[\w.-]+/|file:|\b[A-Za-z]:\\|site-packages")
"""How a path of a machine begins; `outputs/…` and `https://…` are none."""


def stored():
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def execute(folder):
    """Return the stored notebook with the outputs that its cells have in `folder`; raises CellExecutionError."""
    notebook = stored()
    options = {"kernel_name": "python3", "timeout": 300, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options).execute()
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    """Return what each cell printed, by the cell's id; anything but text and figures fails."""
    found = {}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type in ("stream", "execute_result"), output
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
                found[cell.id] = found.get(cell.id, "") + output.text
    return found


def figures(notebook):
    """Return the pictures of all cells by the cell's id."""
    found = {}
    for cell in code_cells(notebook):
        for data in (output.data for output in cell.outputs if "data" in output):
            assert cell.id not in found, "one figure a cell"
            found[cell.id] = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    return found


def check_outputs(notebook):
    assert printed(notebook).keys() == PRINTS
    assert figures(notebook).keys() == DRAWS
    for name, picture in figures(notebook).items():
        values = np.asarray(picture.convert("L"))
        assert min(values.shape) > 150, name
        # Ink of the title on white paper, and greys between them: an empty panel has few.
        assert values.max() == 255 and values.min() < 60 and len(np.unique(values)) > 100, name
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@pytest.fixture
def own_jupyter(tmp_path, monkeypatch):
    """Kernels neither read nor write what the user keeps of Jupyter and IPython."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("AECTL_RUN", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("model=undercomplete", "model.code=4"), ("model=vae", "model.code=1")])
def test_every_cell_runs(aectl, own_jupyter, tmp_path, settings):
    code, out, err = aectl("train", *settings, "dataset=digits", "epochs=2", "device=cpu", "device.threads=1")
    assert code == 0, out + err
    # Jupyter starts a kernel in the notebook's own folder, not where the runs are.
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    notebook = execute(folder)
    check_outputs(notebook)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in stored().cells]
    model, test = package.load("latest"), package.dataset("latest").split("test")
    x = test.pixels()
    error, of_mean = (float((x - guess).square().mean()) for guess in (model.reconstruct(x), x.mean(0)))
    width = settings[1].partition("=")[2]
    assert f"360 images of 64 pixels as codes of {width} numbers" in printed(notebook)["encode"]
    assert re.findall(r"0\.\d{4}", printed(notebook)["encode"]) == [f"{error:.4f}", f"{of_mean:.4f}"]


def test_the_stored_notebook_is_whole():
    nbformat.validate(stored())
    check_outputs(stored())
    assert NOTEBOOK.stat().st_size < 700_000
    assert "10,000 images of 784 pixels" in printed(stored())["encode"]


def test_the_stored_notebook_tells_nothing_of_a_machine():
    notebook = stored()
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"name": "python3", "display_name": "Python 3", "language": "python"}
    assert not any(cell.metadata for cell in notebook.cells)
    for picture in figures(notebook).values():
        assert picture.info.keys() <= {"Software", "dpi"}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)
    text = nbformat.writes(notebook)
    assert not ABSOLUTE.search(text), ABSOLUTE.search(text)
    assert str(Path.home()) not in text and str(ROOT) not in text


def test_the_data_of_a_run_are_those_that_it_was_trained_on(aectl, tmp_path):
    settings = ("dataset=digits", "dataset.valid=100", "dataset.test=200", "dataset.exclude=[3]")
    code, out, err = aectl("train", "model=linear", *settings, "epochs=1", "device=cpu", "device.threads=1")
    assert code == 0, out + err
    data = package.dataset("latest")
    assert data.shape == (1, 8, 8)
    assert len(data.split("test")) == 200
    assert 3 in data.split("test").labels and 3 not in data.split("train").labels
    (config,) = tmp_path.glob("outputs/digits/linear/*/.hydra/config.yaml")
    config.write_text(config.read_text().replace("aectl.data.datasets.digits", "my_module.digits"))
    with pytest.raises(ConfigError, match=r"my_module\.digits"):
        package.dataset("latest")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    nbformat.write(execute(ROOT), NOTEBOOK)
