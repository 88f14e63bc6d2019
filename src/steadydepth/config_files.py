"""Configs as YAML: read with `section.key=value` on top, every mistake named at once, written back, and described."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from steadydepth.config import (
    CompareConfig,
    Config,
    CurveConfig,
    DataConfig,
    FilterConfig,
    RangeConfig,
    SearchConfig,
    Section,
    SourceConfig,
    SyntheticConfig,
)
from steadydepth.errors import InputError

AnySection = TypeVar("AnySection", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as text; a person who writes it means a number."""


class _Dumper(yaml.SafeDumper):
    """Puts marks around text that `_Loader` would take for a number, such as a folder 1e3."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _text_of(path: Path) -> str:
    """The text of a file, without the mark that editors of Windows put before it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is no UTF-8 text ({error.reason}), maybe the UTF-16 of a Windows shell: save it as UTF-8"
        ) from error


def _read(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none; brackets without end
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from error


def _override(text: str, where: str, root: type[Section], name: str) -> Any:
    """The value after the equals sign; of a key that holds text or a path, the text as it stands.

    As YAML, 2024 would be a number, `on` a yes, and what follows ` #` a comment.
    """
    section: type[Section] | None = root
    for part in name.split("."):
        field = section.model_fields.get(part) if section is not None else None
        section = None if field is None else _section(field.annotation)
    held = () if field is None else get_args(field.annotation) or (field.annotation,)
    kinds = [kind for kind in held if kind is not type(None)]
    holds_text = bool(kinds) and all(isinstance(kind, type) and issubclass(kind, str | Path) for kind in kinds)
    is_quoted = text[:1] in ("'", '"') and text[:1] == text[-1:] and len(text) > 1
    if holds_text and text != "null" and not is_quoted:
        if not text and Path in kinds:
            raise InputError(f"{name}=: no path; is a variable of the shell not set? {name}=null is for none")
        return text
    return _read(text, where)


def _section(annotation: Any) -> type[Section] | None:
    """The section that a field holds, also where it may be left out."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((held for one in get_args(annotation) if (held := _section(one))), None)


def _describe_mistake(error: dict[str, Any], root: type[Section]) -> str:
    """One mistake as `section.key: value: rule`."""
    path = [str(part) for part in error["loc"] if part != "[key]"]
    if error["type"] == "value_error":  # a rule between keys names them itself
        return ": ".join((*[".".join(path)] * bool(path), str(error["msg"]).removeprefix("Value error, ")))
    if error["type"] == "extra_forbidden":
        section = root
        for part in path[:-1]:  # the place in a list, or the key of a mapping, is no field
            field = section.model_fields.get(part)
            section = (field and _section(field.annotation)) or section
        return f"{'.'.join(path)}: unknown; {'.'.join(path[:-1]) or 'a config'} has {', '.join(section.model_fields)}"
    if error["type"] == "missing":
        also = f" or as {'.'.join(path)}=VALUE" if root is Config and len(path) == 2 else ""
        return f"{'.'.join(path)}: missing; give it in the file{also}"
    # YAML has no tuples.
    rule = "Input should be a list, such as [a, b]" if error["type"] == "tuple_type" else error["msg"]
    return f"{'.'.join(path)}: {error['input']!r}: {rule}"


def list_mistakes(where: str, mistakes: list[str]) -> InputError:
    """All mistakes of a config file as one error."""
    return InputError(f"{where}: {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}:\n  " + "\n  ".join(mistakes))


def mistakes_of(checks: Iterable[Callable[[], object]]) -> list[str]:
    """What each of the checks refuses with an InputError."""
    found = []
    for check in checks:
        try:
            check()
        except InputError as error:
            found.append(str(error))
    return found


def _resolve(content: Any, where: str, root: type[AnySection]) -> AnySection:
    if not isinstance(content, dict):
        raise InputError(f"{where}: a config is a mapping of sections: {', '.join(root.model_fields)}")
    try:
        return root.model_validate(content)
    except ValidationError as error:
        mistakes = [line for one in error.errors() for line in _describe_mistake(dict(one), root).split("\n")]
        raise list_mistakes(where, mistakes) from error


def resolve_config(content: Any, where: str) -> Config:
    """The checked config of a mapping; InputError lists every mistake, each with its path and value."""
    return _resolve(content, where, Config)


def load_compare_config(path: str | Path, overrides: list[str] | None = None) -> CompareConfig:
    """The comparison that a YAML file describes.

    Args:
        path: of the file.
        overrides: each a key of the comparison, `out=runs/other` or `curve.values=[1, 2]`, or one of the training
            config that all methods share, `optim.steps=100`: a method that changes the same key takes precedence.

    Raises:
        InputError: it lists every mistake of the file, each with its path and value.
    """
    return _load(path, overrides, CompareConfig, "compare")


def load_search_config(path: str | Path, overrides: list[str] | None = None) -> SearchConfig:
    """The search that a YAML file describes; arguments and errors are those of `load_compare_config`."""
    return _load(path, overrides, SearchConfig, "search")


def load_filter_config(path: str | Path, overrides: list[str] | None = None) -> FilterConfig:
    """The training of the learned filter that a YAML file describes; an override is `sequences=100`."""
    return _load(path, overrides, FilterConfig, "temporal_filter")


def _find_config(name: str | Path, example: str) -> Path:
    """The file `name`, or where that is a plain word the config of the package that is called so."""
    path = Path(name)
    if path.is_file():
        return path
    known = presets()
    if str(name) in known:
        return known[str(name)]
    raise InputError(f"{name}: no such config file; {example} is one that comes with the package: {', '.join(known)}")


def presets() -> dict[str, Path]:
    """The configs that come with the package, by the names that `-c` takes."""
    here = Path(__file__).parent
    # Beside the code once it is installed; in a source tree they lie above it.
    folder = here / "configs" if (here / "configs").is_dir() else here.parents[1] / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _load(given: str | Path, overrides: list[str] | None, root: type[AnySection], example: str) -> AnySection:
    """A config file; of one of several runs, what is no key of its own goes to the training config that they share."""
    path = _find_config(given, example)
    content = _read(_text_of(path), str(path)) or {}
    for override in (overrides or []) if isinstance(content, dict) else []:
        name, equals, value = override.partition("=")
        key, dot, inner = name.partition(".")
        if not (equals and key) or (dot and not inner) or (root is Config and not dot):
            form = "section.key=value" if root is Config else "key=value or section.key=value"
            raise InputError(f"{override}: write {form}, for instance optim.steps=100")
        if dot and (key in root.model_fields or root is Config):
            if isinstance(content.setdefault(key, {}), dict):
                content[key][inner] = _override(value, override, root, name)
        elif dot:
            content["set"] = [*(content.get("set") or []), override]
        else:
            content[key] = _override(value, override, root, name)
    return _resolve(content, str(path), root)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The config of a run from a YAML file.

    Args:
        path: of the file, or the name of a config of the package, such as demo (`presets`).
        overrides: `section.key=value`, in place of the file's values; values are read as YAML.

    Raises:
        InputError: it lists every mistake of the file, each with its path and value.
    """
    return _load(path, overrides, Config, "demo")


def dump_config(config: Config) -> str:
    """The complete config as YAML that `load_config` reads back to the same values."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def describe_config() -> str:
    """Every key of a config with its default and meaning, as Markdown; docs/config.md is this text."""
    lines = ["# Every key of a config", "", "`steadydepth train --keys` prints this page. A run is one YAML file of"]
    lines += ["these sections; `section.key=value` on the command line wins over the file.", ""]
    for name, field in Config.model_fields.items():
        model = _section(field.annotation)
        assert model is not None
        lines += [f"## {name}", "", *_describe(model)]
        if model is DataConfig:
            lines += ["## data.sources", "", *_describe(SourceConfig)]
            lines += ["## data.sources.synthetic", "", *_describe(SyntheticConfig)]
    lines += ["# Every key of a comparison", "", *_describe(CompareConfig), "## curve", "", *_describe(CurveConfig)]
    lines += ["# Every key of a search", "", *_describe(SearchConfig), "## ranges", "", *_describe(RangeConfig)]
    lines += ["# Every key of a filter's training", "", *_describe(FilterConfig)]
    return "\n".join(lines)


def _describe(section: type[Section]) -> list[str]:
    """What a section is, and a table of its keys."""
    lines = [str(section.__doc__), "", "| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in section.model_fields.items():
        default = "required" if field.is_required() else f"`{_plain(field.default)}`"
        lines.append(f"| `{key}` | {default} | {field.description} |")
    return [*lines, ""]


def _plain(value: Any) -> str:
    """A default as a person would write it in YAML."""
    if isinstance(value, Path):
        return value.as_posix()
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).split("\n")[0]
