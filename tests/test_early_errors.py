"""What a config's parts refuse is reported before any data are fetched."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from aectl.commands.train import train
from aectl.commands.train_checks import check_config
from aectl.config import ConfigError, conf_dir
from aectl.data import downloads
from aectl.runs.run import Run


@pytest.fixture(autouse=True)
def nothing_to_read(tmp_path, monkeypatch):
    """An empty folder of data, and no way to fill it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(downloads, "fetch", lambda *_: pytest.fail("data were fetched before the error"))


def start(config):
    """Check and train as the command does, in an empty folder."""
    with open_dict(config):
        del config["hydra"]
    check_config(config)
    Path("run").mkdir()
    train(config, Run(Path("run")))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("epochs=0", "epochs must be at least 1"),
        ("model.code=0", "code must be at least 1, not 0"),
        ("model.encoder.widths=[0]", "widths must be at least 1"),
        ("model.loss=mae", "model.loss='mae': it must be one of mse, bce"),
        ("model.encoder.activation=swish", "model.encoder.activation='swish': it must be one of identity, relu"),
        ("model.code_dropout=1", r"code_dropout must lie in \[0, 1\)"),
        ("model.loss=bce model.output=identity", "loss=bce needs output=sigmoid"),
        ("model=dae noise.std=-1", "noise: std must be a finite number"),
        ("noise=masking noise.p=2", "noise: p must lie in"),
        ("model=sparse penalty.weight=-1", "penalty: weight must be"),
        ("model=rbm penalty=l1", "penalty: the model RBM does not use it"),
        ("model=vae model.beta=-1", "beta"),
        ("model=gan model.averaging=2", "averaging"),
        ("model=made model.masks=0", "masks"),
        ("optimizer.lr=-1", "optimizer.lr must be at least 0, not -1"),
        ("optimizer.lr=abc", "optimizer.lr='abc': it must be a number$"),
        ("optimizer.betas=[2,2]", "optimizer: Invalid beta"),
        ("schedule.warmup=2", "schedule: warmup"),
        ("device.threads=0", "device: threads must be at least 1"),
        ("device.precision=fp7", "device"),
        ("dataset.valid=-1", "dataset: valid must be a count"),
        ("dataset.exclude=[11]", "dataset: exclude must list classes from 0 to 9"),
        ("dataset.labels=-1", "dataset: labels must be a count"),
        ("dataset=patches dataset.of=mnist dataset.side=99", "dataset: side must lie between"),
        ("init_from=nowhere", "'nowhere' is not a run"),
    ],
)
def test_errors_of_the_config_come_before_the_data(typed, message):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", typed.split(), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with pytest.raises(ConfigError, match=message):
        start(config)
    assert not Path("run").exists()


def test_data_are_read_where_the_config_has_no_error():
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["model=linear"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with pytest.raises(pytest.fail.Exception, match="data were fetched"):
        start(config)


@pytest.mark.parametrize("typed", ["only=codez", "outliers=cifar", "export=pickle", "split=al"])
def test_errors_of_an_evaluation_come_before_the_run_is_opened(aectl, typed):
    code, _, err = aectl("eval", "run=nowhere", typed)
    assert code == 2
    assert err.startswith(f"aectl: {typed.partition('=')[0]}")
    assert len(err.splitlines()) == 1
