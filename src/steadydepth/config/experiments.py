"""Every key of a comparison and of a search: many runs."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from steadydepth.config.data import Section
from steadydepth.config.filters import FilterName

Override = Annotated[str, StringConstraints(pattern=r"^\w+\.\w+=")]  # section.key=value
MethodName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.+-]*$")]


class CurveConfig(Section):
    """More runs of one method, one for each value of a key: accuracy against temporal consistency."""

    method: str = Field(description="The method that is varied.")
    key: str = Field("loss.relative_weight", description="The key that is varied.")
    values: tuple[float, ...] = Field(min_length=1, description="Its values, in the order of the line.")
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="Seeds of these runs. Default: all.")


class CompareConfig(Section):
    """Several methods from one start, on one data order, for one budget; every seed of every method is a run."""

    base: Path = Field(description="The training config that all methods share.")
    set: tuple[Override, ...] = Field((), description="Changes of `base` for all methods, as `section.key=value`.")
    test: Path = Field(description="Sequences that every run is evaluated on.")
    out: Path = Field(description="Folder of the runs, the table and the page.")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Each gives one run of every method.")
    jobs: int = Field(1, ge=1, description="Runs side by side, each on its share of the cores.")
    align: str = Field("auto", description="How predictions are aligned to the label, as in evaluate.")
    protocol: str = Field("plain", description="Which pixels count, as in evaluate.")
    methods: dict[MethodName, tuple[Override, ...]] = Field(
        min_length=1, description="Changes of each method. Ratios are relative to the first method."
    )
    curve: CurveConfig | None = Field(None, description="More runs: one method over the values of a key.")
    filters: dict[str, tuple[FilterName, ...]] | None = Field(
        None, description="Filters of a method's predictions that get a row. Default: all, of the first method."
    )


class RangeConfig(Section):
    """The range in which a key is searched."""

    low: float = Field(allow_inf_nan=False, description="Its smallest value.")
    high: float = Field(allow_inf_nan=False, description="Its largest value.")
    log: bool = Field(False, description="Sample its logarithm evenly: for learning rates and weights, above 0.")

    @model_validator(mode="after")
    def _has_room(self) -> "RangeConfig":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g}, high {self.high:g}: low must be below high, and above 0 with log")
        return self


class SearchConfig(Section):
    """Values of numeric keys that give the best metric; every trial is a run."""

    base: Path = Field(description="The training config that all runs share.")
    set: tuple[Override, ...] = Field((), description="Changes of `base` for all runs, as `section.key=value`.")
    ranges: dict[str, RangeConfig] = Field(min_length=1, description="`section.key` of each number that is searched.")
    validation: Path = Field(description="Sequences that every run is scored on; use others for the final test.")
    out: Path = Field(description="Folder of the runs, the table and the best config.")
    trials: int = Field(20, ge=1, description="Number of values that are tried.")
    jobs: int = Field(1, ge=1, description="Runs side by side, each on its share of the cores.")
    metric: str = Field("flicker", description="The metric of evaluate that is optimised.")
    keep: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {"abs_rel": 0.02, "edge_gain": 0.03},
        description="Metrics, and by what share each may be worse than in the plain run (`loss.relative_weight` 0). "
        "Empty: no plain run.",
    )
    align: str = Field("auto", description="How predictions are aligned to the label, as in evaluate.")
    protocol: str = Field("plain", description="Which pixels count, as in evaluate.")
