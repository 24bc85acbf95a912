"""Write docs/CONFIG.md and the metrics of docs/EVALUATION.md from the code and conf/: `python -m tests.config_page`."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from aectl.cli.help import meaning
from aectl.config.schema import CHOICES, SCHEMAS
from aectl.evaluation.registry import EVALUATIONS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/CONFIG.md"
EVALUATION_PAGE = ROOT / "docs/EVALUATION.md"
BEGIN, END = "<!-- metrics: begin -->\n", "<!-- metrics: end -->"
"""Between these lines of docs/EVALUATION.md are the tables of metrics."""
GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device", "sweep")
"""Groups whose options have a section; experiments are listed by name."""
INTRODUCTION = """# Configuration

<!-- Written by `python -m tests.config_page` from aectl/config/schema.py and conf/. Do not edit it by hand. -->

Every key of `aectl train`, `aectl eval` and `aectl sample`, with its default and its meaning.

- `key=value` sets a key: `aectl train epochs=5`.
- `group=option` chooses an option of a group, which is a YAML file of [conf/](../conf): `aectl train model=vae`.
- `group.key=value` sets a key of the chosen option: `aectl train model=vae model.code=2`.
- `null` means that aectl chooses the value. `???` marks a key that you have to set.
- `aectl train model=vae --cfg job` prints the complete config of a command without running it.
"""


def main() -> None:
    """Write both pages."""
    PAGE.write_text(render_page(), encoding="utf-8")
    EVALUATION_PAGE.write_text(replace_metrics(EVALUATION_PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def replace_metrics(text: str) -> str:
    """Return the text of docs/EVALUATION.md with the metrics that the tables declare."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{render_metrics()}\n{END}{rest.partition(END)[2]}"


def render_metrics() -> str:
    """Return a Markdown table of metrics for each table of `aectl eval`."""
    lines = []
    for one in EVALUATIONS:
        lines += [f"### {one.name}", "", f"{one.title[0].upper()}{one.title[1:]}.", ""]
        rows = [f"| `{m.name}` | {escape(m.description)} | {m.better} |" for m in one.metrics]
        lines += ["| metric | meaning | better |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def render_page() -> str:
    """Return the text of docs/CONFIG.md."""
    commands = [line for name, schema in SCHEMAS.items() for line in command_section(name, schema)]
    groups = [line for group in GROUPS for line in group_section(group)]
    return "\n".join([INTRODUCTION, *commands, *groups, *experiment_section()]).rstrip() + "\n"


def command_section(name: str, schema: type) -> list[str]:
    """Return the section of a command's top-level keys."""
    rows = [(one.name, default_of(one), meaning_of(one)) for one in fields(schema)]
    return [f"## aectl {name}", "", *table(rows), ""]


def default_of(key: "Field[Any]") -> str:
    """Return a key's default as it is typed; the word `option` for a group."""
    if key.name in (*GROUPS, "reference") and key.default is None:
        return f"an [option](#{key.name})" if key.name in GROUPS else "null"
    if key.default_factory is not MISSING:
        return code(key.default_factory())
    return code(key.default)


def meaning_of(key: "Field[Any]") -> str:
    """Return the meaning of a key, with its choices where the schema lists them."""
    choices = CHOICES.get(key.name)
    text = meaning(key)
    return text if not choices or all(choice in text for choice in choices) else f"{text}: {', '.join(choices)}"


def group_section(group: str) -> list[str]:
    """Return the section of a group: a part for each option."""
    lines = [f"## {group}", ""]
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        lines += option_section(group, path)
    return lines


def option_section(group: str, path: Path) -> list[str]:
    """Return the part of one option: what it is, how it is used, what it chooses in other groups, and its keys."""
    header = [
        line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"
    ]
    examples = [line for line in header if line.startswith("aectl ")]
    words = " ".join(line for line in header if line and line not in examples and not line.startswith("@package"))
    rows = [(key, code(value), meaning) for key, value, meaning in option_keys(group, path)]
    return [
        f"### {group}={path.stem}",
        "",
        *([words, ""] if words else []),
        *[f"    {example}" for example in examples],
        "",
        *([f"It chooses {', '.join(chosen)}.", ""] if (chosen := choices_of(path)) else []),
        *([*table(rows), ""] if rows else []),
    ]


def choices_of(path: Path) -> list[str]:
    """Return the options of other groups, and of its own, that a YAML's defaults list chooses."""
    found = []
    for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", []):
        if isinstance(entry, dict):
            found += [f"`{key.removeprefix('override ').lstrip('/')}={value}`" for key, value in entry.items()]
        elif entry != "_self_":
            found.append(f"the keys of [`{path.parent.name}={entry}`](#{path.parent.name}{entry})")
    return found


def option_keys(group: str, path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the keys of an option's YAML as they are typed, with their values and the comments next to them."""
    text = path.read_text(encoding="utf-8")
    lines, node = text.splitlines(), yaml.compose(text)
    is_global = "# @package _global_" in text
    for key, value, line in leaves(node, "" if is_global else f"{group}."):
        if not key.startswith("defaults") and not key.endswith(("_target_", "_partial_")):
            yield key, value, comment_at(lines, line)


def leaves(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, Any, int]]:
    """Yield the dotted key, the value and the line of whatever is no mapping."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", yaml.safe_load(yaml.serialize(value)), key.start_mark.line


def comment_at(lines: list[str], line: int) -> str:
    """Return the comment of a line, with the lines of comment alone below it."""
    words = [comment_of(lines[line])]
    for below in lines[line + 1 :]:
        if not (below.startswith(" ") and below.lstrip().startswith("#")):
            break
        words.append(below.strip().removeprefix("#").strip())
    return " ".join(word for word in words if word)


def comment_of(line: str) -> str:
    """Return the comment at the end of a line of YAML."""
    return line.partition(" # ")[2].strip()


def experiment_section() -> list[str]:
    """Return the list of experiments, each with its file."""
    paths = sorted((ROOT / "conf/experiment").glob("*.yaml"))
    links = [f"[`{path.stem}`](../conf/experiment/{path.name})" for path in paths]
    about = "An experiment sets several groups and keys at once; the header of its file describes it."
    return [
        "## experiment",
        "",
        about,
        "",
        "    aectl train experiment=burda_vae_1l_k1_short",
        "",
        ", ".join(links) + ".",
    ]


def table(rows: list[tuple[str, str, str]]) -> list[str]:
    """Return a Markdown table of keys, defaults and meanings."""
    lines = [f"| `{key}` | {default} | {escape(meaning)} |" for key, default, meaning in rows]
    return ["| key | default | meaning |", "|---|---|---|", *lines]


def code(value: Any) -> str:
    """Return a value as it is typed, in backticks."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{escape(text)}`"


def escape(text: str) -> str:
    """Return a text that does not end a cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
