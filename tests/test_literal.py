"""Paths are texts to Hydra and OmegaConf, whatever their characters."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from aectl.cli.hydra_main import quote_texts
from aectl.config.overrides import override_value
from aectl.config.quoting import escape_interpolation, quote_override, unquote_override

ODD = [
    "plain",
    "o'brien",
    "o'",
    "'both'",
    'a"b',
    "dol${x}lar",
    "esc\\${x}",
    "two\\\\${x}",
    "end\\",
    "back\\'slash",
    "com,ma",
    "br[ack]",
    "br{ace}",
    "eq=ual",
    "sp ace",
    "ha#sh",
    "new\nline",
    "tab\t",
    "col:on",
    "$x ${",
    "\udcffbyte",
    "größe",
    "~",
    "1e3",
    "null",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_come_through_hydra_and_omegaconf(text):
    assert OmegaConf.create({"key": escape_interpolation(text)}).key == text
    (parsed,) = OverridesParser.create().parse_overrides([f"key={quote_override(text)}"])
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, "key", parsed.value())
    assert config.key == text
    assert unquote_override(quote_override(text)) == text
    assert override_value(f"resume={quote_override(text)}") == text


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("key", ["run", "images"])
def test_odd_paths_are_typed_as_they_are(key, text):
    if text[:1] in "'\"" or (text == "null" and key == "run"):
        pytest.skip("quotes that are typed are Hydra's, and null is no run")
    (word,) = quote_texts([f"{key}={text}"])
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert OmegaConf.create({"key": parsed.value()}).key == (None if text == "null" else text)


@pytest.mark.parametrize("key", ["dataset.root", "dataset.path", "init_from"])
def test_a_path_that_is_there_needs_no_quotes(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my o'brien, [1] ${x}").mkdir()
    (word,) = quote_texts([f"{key}=my o'brien, [1] ${{x}}"])
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert OmegaConf.create({"key": parsed.value()}).key == "my o'brien, [1] ${x}"
    # What is not there may be an interpolation.
    assert quote_texts([f"{key}=${{oc.env:HOME}}"]) == [f"{key}=${{oc.env:HOME}}"]
