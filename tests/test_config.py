"""From config to objects: signatures, trust, and the one door."""

import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from aectl.config import ConfigError, accepts, build, check_signature, check_trusted, conf_dir, instantiate
from aectl.config.import_name import locate
from aectl.config.type_check import describe_type, fits, with_floats

SOURCE = """
    class Net:
        def __init__(self, code: int, widths: tuple[int, ...] = (8,), p: float = 0.1, act: str = "relu",
                     noise: object = None, some: list[int] | None = None):
            if code < 1:
                raise ValueError(f"code must be at least 1, not {code}")
            self.__dict__.update(locals())

    class Outer:
        def __init__(self, shape, net, noise=None):
            self.shape, self.net, self.noise = shape, net, noise

    class Open:
        def __init__(self, **names):
            self.names = names

    class Broken:
        def __init__(self):
            raise RuntimeError("boom")

    def function(code: int = 3):
        return code
"""


@pytest.fixture(autouse=True)
def my_parts(tmp_path, monkeypatch):
    """A user's own module in the working folder."""
    (tmp_path / "my_parts.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_parts", None)


def net(**keys: Any) -> Any:
    return OmegaConf.create({"model": {"_target_": "my_parts.Net", "code": 32, **keys}}).model


@pytest.mark.parametrize(
    "keys",
    [{}, {"p": 1}, {"some": [1, 2]}, {"some": None}, {"widths": []}, {"noise": {"_target_": "my_parts.Open", "x": 1}}],
)
def test_a_config_that_fits_its_signature_passes(keys):
    check_signature(net(**keys), "model")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cod": 3}, "model.cod: Net takes no 'cod'; did you mean 'code'?"),
        ({"zzz": 3}, "model.zzz: Net takes no 'zzz'; it takes code, widths, p, act, noise, some"),
        ({"code": "x"}, "model.code='x': it must be a whole number"),
        ({"code": 1.5}, "model.code=1.5: it must be a whole number"),
        ({"code": True}, "model.code=True: it must be a whole number"),
        ({"code": "???"}, "model.code is missing: type model.code=…"),
        ({"p": "a"}, "model.p='a': it must be a number"),
        ({"act": 3}, "model.act=3: it must be text"),
        ({"widths": [1, "b"]}, "model.widths=[1, 'b']: it must be a list, each a whole number"),
        (
            {"noise": {"_target_": "my_parts.Net", "cod": 3}},
            "model.noise.cod: Net takes no 'cod'; did you mean 'code'?",
        ),
        ({"_target_": "???"}, "model._target_ is missing: type model._target_=my_module.MyClass"),
    ],
)
def test_a_config_that_does_not_fit_is_told_where(keys, message):
    with pytest.raises(ConfigError) as error:
        check_signature(net(**keys), "model")
    assert str(error.value) == message


def test_names_that_the_program_supplies_may_be_left_out():
    check_signature(OmegaConf.create({"_target_": "my_parts.Outer", "net": {"_target_": "my_parts.Net"}}), "model")


def test_lists_and_absent_nodes_are_looked_at_too():
    check_signature(None, "noise")
    with pytest.raises(ConfigError, match=r"parts\[1\].cod: Net takes no"):
        check_signature(OmegaConf.create([1, {"_target_": "my_parts.Net", "cod": 3}]), "parts")


@pytest.mark.parametrize(
    ("value", "hint", "fitting"),
    [
        (1, float, True),
        (True, float, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        ({"a": 1}, dict[str, int], True),
        ([1], dict[str, int], False),
        ("x", Path, True),
        ("x", "anything", True),
        (3, type(sys), False),
        ({"_target_": "x"}, type(sys), True),
        (3, Any, True),
    ],
)
def test_values_and_hints(value, hint, fitting):
    assert fits(value, hint) == fitting
    assert describe_type(hint)


@pytest.mark.parametrize(
    ("value", "hint", "passed"),
    [
        ([0, 0.5], tuple[float | str, float], [0.0, 0.5]),
        ([0, 1], tuple[float, ...], [0.0, 1.0]),
        ([0, 1], tuple[int | float, float], [0, 1]),
        ([0, 1], tuple[int, ...], [0, 1]),
        (["a", 1], tuple[str, float], ["a", 1]),
        ([True, 1], tuple[float, float], [True, 1]),
        (0, float, 0),
    ],
)
def test_whole_numbers_in_a_tuple_of_floats_are_floats(value, hint, passed):
    found = with_floats(value, hint)
    assert found == passed
    if isinstance(value, list):
        assert list(map(type, found)) == list(map(type, passed))


def test_betas_may_be_typed_without_a_decimal_point():
    make = build({"_target_": "torch.optim.Adam", "_partial_": True, "betas": [0, 0.99]}, "optimizer")
    assert make([torch.zeros(1)]).defaults["betas"] == (0.0, 0.99)


def test_build_makes_nested_objects_and_passes_values_as_they_are():
    config = OmegaConf.create({"model": {"_target_": "my_parts.Outer", "net": {"_target_": "my_parts.Net", "code": 2}}})
    noise = object()
    made = build(config.model, "model", shape=(1, 2), noise=noise, penalty=3)
    assert made.shape == (1, 2)
    assert made.noise is noise
    assert type(made.net).__name__ == "Net"
    assert made.net.widths == (8,)


def test_build_of_nothing_is_none():
    assert build(None, "noise") is None
    assert build(OmegaConf.create({"_target_": None}), "noise") is None
    assert build({}, "noise", shape=1) is None


def test_build_of_a_partial_is_a_callable_with_what_was_supplied():
    make = build({"_target_": "my_parts.Net", "_partial_": True, "p": 0.5}, "encoder", act="tanh")
    assert make(code=3).act == "tanh"
    assert make(code=4).p == 0.5


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "my_parts.Net", "code": 0}, "model: code must be at least 1, not 0"),
        ({"_target_": "my_parts.Net"}, "model.code is missing: Net needs it"),
        (
            {"_target_": "my_parts.Outer", "shape": 1, "net": {"_target_": "my_parts.Net", "code": 0}},
            "model.net: code must be at least 1, not 0",
        ),
        (
            {"_target_": "my_parts.Nett"},
            "model: cannot find 'my_parts.Nett': 'my_parts' has no 'Nett'; did you mean 'Net'?",
        ),
        (
            {"_target_": "my_part.Net"},
            "model: cannot find 'my_part.Net': there is no module 'my_part' here or in installed packages; "
            "did you mean 'my_parts'?",
        ),
        ({"_target_": "json"}, "model: 'json' is not a class or function"),
        pytest.param(
            *({"_target_": "shutil.rmtree", "path": "x"}, None),
            marks=pytest.mark.skipif(
                bool(instantiate.build_allowlist({})), reason="later ones of Hydra call what is meant"
            ),
        ),
    ],
)
@pytest.mark.parametrize("attached", [True, False])
def test_what_build_refuses_names_the_key(node, message, attached):
    node = OmegaConf.create({"model": node}).model if attached else node
    with pytest.raises(ConfigError) as error:
        build(node, "model")
    assert message is None or str(error.value) == message


def test_unexpected_errors_of_a_component_come_through():
    with pytest.raises(RuntimeError, match="boom"):
        build({"_target_": "my_parts.Broken"}, "model")
    with pytest.raises(RuntimeError, match="boom"):
        build({"_target_": "my_parts.Outer", "shape": 1, "net": {"_target_": "my_parts.Broken"}}, "model")


def test_a_module_that_fails_on_import_says_how(tmp_path):
    (tmp_path / "my_bad_parts.py").write_text("import nowhere_at_all")
    with pytest.raises(ImportError, match=r"importing 'my_bad_parts' failed with ModuleNotFoundError.*nowhere_at_all"):
        locate("my_bad_parts.Net")


def test_accepts():
    node = {"_target_": "my_parts.Net"}
    assert accepts(node, "noise")
    assert not accepts(node, "penalty")
    assert accepts({"_target_": "my_parts.Open"}, "anything")
    assert not accepts(None, "noise")
    assert not accepts({"_target_": None}, "noise")


TRUSTED = ("torch.nn.Linear", "torch.optim.Adam", "aectl.rng.Rng", "aectl.data.datasets.digits", "aectl.models.vae.VAE")


@pytest.mark.parametrize("target", TRUSTED)
def test_a_stored_config_may_name_our_parts(target):
    check_trusted({"dataset": {"_target_": target}})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "my_parts.Net",
        "aectl_elsewhere.Net",
        "torch.nn.modules.module.torch.os.system",
        "torch.nn.modules.module.torch.multiprocessing.Process",
        "aectl.data.downloads.run_package_manager",
        "aectl.runs.run.run_git",
        "builtins.eval",
    ],
)
@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {"a": [{"b": t}]}, lambda t: {"_target_": "aectl.rng.Rng", "x": t}]
)
def test_a_stored_config_may_name_nothing_else(target, wrap):
    with pytest.raises(ConfigError, match="the stored config names") as error:
        check_trusted(OmegaConf.create({"model": wrap({"_target_": target})}))
    assert target in str(error.value)
    assert "add trust=" in str(error.value)


def test_names_are_judged_before_anything_is_imported(tmp_path):
    (tmp_path / "my_trap.py").write_text("raise SystemExit('imported')")
    with pytest.raises(ConfigError, match="trust=my_trap"):
        check_trusted({"a": {"_target_": "torch.nn.Linear"}, "b": {"_target_": "my_trap.X"}})


def test_interpolation_does_not_hide_a_target(monkeypatch):
    monkeypatch.setenv("HIDDEN", "os.system")
    with pytest.raises(ConfigError, match=r"os\.system"):
        check_trusted(OmegaConf.create({"model": {"_target_": "${oc.env:HIDDEN}"}}))
    with pytest.raises(ConfigError, match=r"os\.system"):
        check_trusted(OmegaConf.create({"model": "${oc.create:'{_target_: os.system}'}"}))


@pytest.mark.parametrize("trust", ["my_parts", ["my_parts"], ("other", "my_parts")])
def test_what_the_user_trusts_is_allowed(trust):
    check_trusted({"model": {"_target_": "my_parts.Net"}, "x": {"_target_": "my_parts.function"}}, trust)


def test_conf_dir_holds_the_commands():
    assert {path.stem for path in Path(conf_dir()).glob("*.yaml")} == {"train", "eval", "sample", "resume"}
