"""Every key of a run, of a comparison, of a search and of the learned filter, with default, bounds and meaning."""

from steadydepth.config.data import DataConfig, Section, SourceConfig, SyntheticConfig
from steadydepth.config.experiments import CompareConfig, CurveConfig, RangeConfig, SearchConfig
from steadydepth.config.filters import FilterConfig, FilterName
from steadydepth.config.run import Config, LossConfig, ModelConfig, OptimConfig, RunConfig

__all__ = [
    "CompareConfig",
    "Config",
    "CurveConfig",
    "DataConfig",
    "FilterConfig",
    "FilterName",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RangeConfig",
    "RunConfig",
    "SearchConfig",
    "Section",
    "SourceConfig",
    "SyntheticConfig",
]
