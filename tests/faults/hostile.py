"""What nobody in his right mind types: every key of conf/ with values that are none of it, made from a seed."""

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from zlib import crc32

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from aectl.config import conf_dir, list_options
from aectl.config.schema import SCHEMAS

SMALL = ("epochs=1", "batch_size=50", "dataset.test=0.5", "dataset.valid=0.4", "device.threads=1", "max_time=2")
GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device", "experiment")
NET = ("model=undercomplete", "model.code=2", "model.encoder.widths=[4]", "model.decoder.widths=[4]")
RUN = {
    "train": (),
    "eval": ("run={run}", "figures=false", "only=[reconstruction]", "outliers=none", "device.threads=1"),
    "sample": ("run={run}", "kind=reconstruction", "n=4", "device.threads=1"),
}
"""What eval and sample are told besides."""


@dataclass(frozen=True)
class Target:
    """A key, and the words of a run that ends within a second if the key is left alone."""

    command: str
    key: str
    base: tuple[str, ...]
    value: object = field(default=None, compare=False, repr=False)


@cache
def targets():
    """Return every key of every command, and of every option of every group."""
    base = ("dataset=digits", *NET, *SMALL)
    found = [Target("train", key, base, value) for key, value in keys_of_schema("train")]
    found += [
        Target(command, key, (), value) for command in ("eval", "sample") for key, value in keys_of_schema(command)
    ]
    seen = set()
    for group in GROUPS:
        for option in list_options()[group]:
            leaves = leaves_of(group, option)
            # What an experiment sets beside its references are keys of the options that it is composed of.
            own = [key for key in leaves if group != "experiment" or (key.startswith("reference") and key not in seen)]
            seen.update(own)
            found += [Target("train", key, base_of(group, option, leaves), leaves[key]) for key in own]
    device = leaves_of("device", "auto").items()
    found += [Target(command, key, (), value) for command in ("eval", "sample") for key, value in device]
    return list(dict.fromkeys(found))


def keys_of_schema(command):
    return [(one.name, one.default) for one in fields(SCHEMAS[command])]


@cache
def leaves_of(group, option):
    """Return the keys below a group that one of its options sets, with their values; nodes are keys too."""
    config = OmegaConf.load(Path(conf_dir(), group, f"{option}.yaml"))
    node = config if group in config or "@package" in Path(conf_dir(), group, f"{option}.yaml").read_text() else None
    found = {}
    for base in config.get("defaults") or []:
        if isinstance(base, str) and base != "_self_":
            found |= leaves_of(group, base)
    plain = OmegaConf.to_container(config if node is not None else OmegaConf.create({group: config}))
    plain.pop("defaults", None)
    return found | dict(leaves(plain))


def leaves(plain, path=""):
    for key, value in plain.items():
        full = f"{path}.{key}" if path else str(key)
        if key != "defaults":
            yield full, value
        if isinstance(value, dict):
            yield from leaves(value, full)


def base_of(group, option, leaves):
    """Return the words of a small run with this option."""
    words = [f"{group}={option}"]
    if group not in ("model", "experiment"):
        words += NET
    if group not in ("dataset", "experiment") and option != "boltzmann":
        words = ["dataset=digits", *words]
    shrunk = [f"{key}={small(value)}" for key, value in leaves.items() if small(value) != value and "." in key]
    held = [] if group == "dataset" or option == "boltzmann" else SMALL[2:4]
    return (*words, *shrunk, *SMALL[:2], *held, *SMALL[4:])


def small(value):
    """Return a number that is small enough, of a shape like this one's."""
    if isinstance(value, list):
        return [small(one) for one in value]
    return 4 if type(value) is int and value > 4 else value


NUMBERS = (
    *("-1", "0", "-0.0", "0.5", "1.5", "2.7", "1e1", "1e-320", "1e30", "1e400", "-1e400", "1_000", "0x10", "007"),
    *("3", "1000000000", "1" + 30 * "0", str(2**63), str(2**63 - 1), str(-(2**63)), str(-(2**70)), str(2**31)),
    *(str(2**32), "nan", "inf", "-inf", "NaN", "1.", ".5", "1e", "--1", "+1", "1/2", "50%", "1,5"),
)
WORDS = (
    *("true", "false", "null", "", "''", '""', "'0.5'", '"3"', "' '", "none", "yes", "None", "~", "???", "'???'"),
    *("_", "model", "latest", "relu", "os.system", "aectl", "torch.nn.Linear", "builtins.exec", "a.b.c.d", "."),
    *("..", "a..b", "\\", "\\'", "$", "#", "&x", "*x", "!!python/object:os.system", "%s%n", "{0}"),
    *("../../../nowhere", "nowhere/" * 9),
)
STRUCTURES = (
    *("[]", "{}", "[8]", "[1,[2]]", "{a:1}", "[true]", "['a']", "[null]", "[-1]", "[0]", "[1000000000]", "[nan]"),
    *("[{}]", "{_target_:os.system,command:ls}", "{_target_:builtins.print}", "{_target_:3}", "{_target_:[1]}"),
    *("{_target_:''}", "{_target_:torch.nn.ReLU}", "{_partial_:3}", "{_target_:aectl.models.networks.TopK,k:3}"),
    *("{'':1}", "{1:2}", "[" * 60 + "]" * 60, "[" + ",".join(["4"] * 300) + "]", "[[4],[4]]", "{a:{b:{c:[1]}}}"),
    *("[4,'4']", "[4,4.5]"),
)
INTERPOLATIONS = (
    *("${nope}", "${nope:1}", "${oc.env:AECTL_NOT_SET}", "${oc.env:AECTL_NOT_SET,null}", "${batch_size}"),
    *("${epochs}", "${}", "${", "}", "${..a}", "${model}", "${.}", "${oc.create:[1]}", "${oc.decode:'['}"),
    *("${aectl.slug:x}", "${seed}", "${hydra:run.dir}", "${now:%Y}", "${oc.select:a.b,7}"),
    *("${oc.dict.keys:model}", "$${x}", "\\${x}", "${${seed}}"),
)
BROKEN = (
    *("[1,2", "{a", "(", ")", "]", "'x", '"x', "a=b", "a:b", "1,2", "range(1,3)", "choice(1,2)", "glob(*)"),
    *("sort(2,1)", "int(2.7)", "float(x)", "str([1])", "bool(7)", "json_str({)", "a b", " ", "a,,b", ",", ":"),
    *("interval(0,1)", "[,]"),
)
UNICODE = (
    *("日本語", "e\u0301\u0323", "\u202eabc", "👩‍👩‍👧", "\x1b[31mred\x1b[0m", "a\nb", "a\x00b", "\x07", "\udc80"),
    *("\u2028", "٣", "１", "\x1b]0;title\x07", "\r", "\t", "'\x1b[2J'", "'a\nb'", "'\x00'", "'\udcff'"),
    *("'\u200f'", "ﬁ", "K" * 300, "\ufeff"),
)
PLAIN = ("1", "2", "3", "0.1", "0.5", "1.0", "true", "false", "null", "[4]", "[2,3]", "relu", "none", "draw", "{}")
"""What some key or other can be."""
LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


def values():
    """Return a strategy of what may stand behind the equals sign."""
    quoted = LETTERS.map(lambda text: "'" + text.replace("\\", "").replace("'", "") + "'")
    numbers = st.one_of(st.integers(-(10**20), 10**20), st.floats(width=32, allow_subnormal=False)).map(str)
    groups = (NUMBERS, WORDS, STRUCTURES, INTERPOLATIONS, BROKEN, UNICODE)
    plain = st.sampled_from(PLAIN)
    return st.one_of(*(st.sampled_from(one) for one in groups), plain, plain, plain, plain, numbers, quoted, LETTERS)


def mild(value):
    """Return a strategy of values that may well be right, like this one."""
    if isinstance(value, bool):
        return st.sampled_from(("true", "false"))
    if isinstance(value, int):
        return st.integers(0, 6).map(str)
    if isinstance(value, float):
        return st.floats(0, 1, width=32, allow_subnormal=False).map(str)
    if isinstance(value, list):
        return st.lists(st.integers(1, 5), max_size=3).map(str)
    return st.sampled_from((str(value), "null"))


def lines(target):
    """Return a strategy of the words behind a command that do something to a key."""
    key = target.key
    told = values().map(lambda value: (f"{key}={value}",))
    near = mild(target.value).map(lambda value: (f"{key}={value}",))
    return st.one_of(
        *[told] * 30,
        *[near] * 15,
        values().map(lambda value: (f"+{key}={value}",)),
        values().map(lambda value: (f"++{key}={value}",)),
        st.just((f"~{key}",)),
        values().map(lambda value: (f"~{key}={value}",)),
        st.tuples(values(), values()).map(lambda two: tuple(f"{key}={value}" for value in two)),
        st.just((f"{key}=${{{key}}}",)),
        st.just((f"{key}=${{seed}}", f"seed=${{{key}}}")),
        values().map(lambda value: (f"{key}.{value}=1",)),
        values().map(lambda value: (f"+{key}.new={value}",)),
        values().map(lambda value: (f"{key}x={value}",)),
        values().map(lambda value: (f"{key}@{value}={value}",)),
        values().map(lambda value: (f"{key}{value}",)),
        values().map(lambda value: (f"--{key}", value)),
    )


def draws(strategy, name, count):
    """Return as many values of a strategy, which depend on the name alone."""
    found = []

    @seed(crc32(name.encode()))
    @settings(
        max_examples=count + 1,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    # The first is the simplest there is, for every name the same.
    return found[1:]
