"""metrics.json read back: what a reader of it relies on is there and of its type, whoever edited or wrote the file."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from steadydepth.errors import InputError
from steadydepth.files.damage import reading, short
from steadydepth.metrics.protocols import METRICS

_MOST_MISTAKES = 5


def _check_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Metrics, counts and the alignment are numbers; what others add beside them is theirs."""
    for name, value in values.items():
        is_ours = name in METRICS or name.startswith("n_") or name in ("scale", "shift")
        if is_ours and value is not None and not isinstance(value, int | float):
            raise ValueError(f"{name} is {short(repr(value))}, and a number or null")
    return values


_Values = Annotated[dict[str, Any], AfterValidator(_check_numbers)]
_Intervals = dict[str, Annotated[list[float], Field(min_length=2, max_length=2)] | None]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Header(_Part):
    data: str
    n_clips: int
    n_frames: int
    align: str | list[str] | None
    protocol: str = "plain"
    max_depth: float | None = None
    model: str | None = None
    predictions: str | None = None
    filter: str | None = None
    strength: float | None = None


class _Table(_Part):
    mean: _Values
    mean_fixed: _Values | None = None
    mean_moving: _Values | None = None
    interval: _Intervals | None = None
    interval_fixed: _Intervals | None = None
    interval_moving: _Intervals | None = None


class _ClipTable(_Table):
    clips: dict[str, _Values]


class _Report(_ClipTable):
    header: _Header
    controls: dict[str, _ClipTable] | None = None
    lengths: dict[str, _Table] | None = None
    curves: dict[str, dict[str, list[float | None]] | None] | None = None


def read_report(path: Path) -> dict[str, Any]:
    """The metrics.json at `path`, or in the folder `path`, as it stands there.

    Raises:
        InputError: it is missing or something else, or a key that is read lacks or has a value of another type; each
            key is named.
    """
    file = path / "metrics.json" if path.is_dir() else path
    with reading(file, "as JSON", "it is a metrics.json: evaluate writes one"):
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        mistakes = [_mistake(one) for one in error.errors()]
        more = f"; and {len(mistakes) - _MOST_MISTAKES} more" if len(mistakes) > _MOST_MISTAKES else ""
        raise InputError(
            f"{file}: is no metrics.json as steadydepth evaluate writes it: {'; '.join(mistakes[:_MOST_MISTAKES])}"
            f"{more}: remove the file and evaluate again, or correct it"
        ) from error
    return report


def _mistake(error: Any) -> str:
    where = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    return f"{where} is {short(repr(error['input']))} ({error['msg']})"
