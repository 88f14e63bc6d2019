"""Every key of the data of a run, and what all sections share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator


class Section(BaseModel):
    """A section of a config: keys that it does not know are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="after")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """A path with ~ is one in a home."""
        if isinstance(value, list):
            return [cls._at_home(one) for one in value]
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError as error:  # of a user who is not there
            raise ValueError(f"{error}: write the complete path") from error

    @field_serializer("*", mode="wrap", when_used="json")
    def _with_slashes(self, value: Any, usual: Callable[[Any], Any]) -> Any:
        """A path as every system reads it: one that Windows wrote has no backslashes."""
        return value.as_posix() if isinstance(value, Path) else usual(value)


LABELS = "depth: measured depth of the sequences; teacher: the starting model behind the learned filter"


class SyntheticConfig(Section):
    """Clips that are rendered while training, of `data.clip_length` frames and the size of training frames."""

    assets: Path | None = Field(
        None, description="File of 3D models that `data assets` wrote. Default: boxes, balls, cylinders and cones."
    )
    textures: Path | None = Field(None, description="Folder of images that are used as textures.")
    repeats: int = Field(
        1,
        ge=1,
        description="Show each clip so many times, each time in other light: less rendering.",
    )
    keep: Path | None = Field(
        None, description="Folder to keep rendered clips in, for other runs and for `repeats` over the complete run."
    )


class SourceConfig(Section):
    """One of the `data.sources` of a run on several folders."""

    root: Path | None = Field(None, description="Folder of sequence folders or video files.")
    synthetic: SyntheticConfig | None = Field(
        None, description="In place of `root`: the synthetic world, rendered on the device of the run."
    )
    labels: Literal["depth", "teacher", "none"] = Field("depth", description=f"{LABELS}; none: only the relative loss.")
    share: float = Field(
        1.0,
        ge=0.001,
        le=1000,
        description="Share of the samples, relative to the other shares, rounded to a thousandth.",
    )
    single: bool = Field(False, description="Frames are single images, drawn one by one: only the absolute loss.")
    motion: Literal["none", "flow", "dis"] | None = Field(None, description="In place of `data.motion`.")

    @property
    def folder(self) -> Path:
        """The root, of a source that has one."""
        assert self.root is not None
        return self.root

    @property
    def name(self) -> str:
        """What it is called in logs and cards."""
        return "synthetic world" if self.synthetic is not None else str(self.root)

    @model_validator(mode="after")
    def _root_or_synthetic(self) -> "SourceConfig":
        if (self.root is None) == (self.synthetic is None):
            raise ValueError("give either root, a folder, or synthetic, what is rendered")
        if self.synthetic is not None and (self.labels != "depth" or self.single):
            raise ValueError("synthetic: rendered clips have depth: labels must be depth, and single false")
        if self.synthetic is not None and self.motion == "dis":
            raise ValueError("synthetic: rendered clips have their exact flow: motion must be flow or none")
        if self.single and self.labels != "depth":
            raise ValueError("single: images have the absolute loss alone, so their labels must be depth")
        return self


class DataConfig(Section):
    """Which videos, how clips are taken from them, and augmentation."""

    root: Path | None = Field(None, description="Folder of sequence folders or video files.")
    labels: Literal["depth", "teacher"] = Field("depth", description=f"{LABELS}.")
    sources: tuple[SourceConfig, ...] = Field(
        (), description="In place of `root` and `labels`: several folders in one run, each with its own labels."
    )
    teacher_strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="For labels teacher: strength of the learned filter (forwards and backwards); 0: no filter.",
    )
    validation: Path | None = Field(None, description="Folder of clips with depth that `run.validate_every` scores.")
    motion: Literal["none", "flow", "dis"] = Field(
        "flow",
        description="How pixels of two frames are paired: at the same place (none), along the flow files, or along DIS "
        "flow of the frames. Rendered clips use their exact flow for both.",
    )
    clip_length: int = Field(3, ge=2, description="Frames in a clip.")
    strides: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (1,),
        min_length=1,
        description="Steps between the frames, one drawn per clip; 0 repeats one frame with other photometric "
        "augmentation. For rendered clips every other step means the next frame.",
    )
    strict: bool = Field(
        False,
        description="Stop at a sequence or image that cannot be read, or that lacks the required depth or flow. By "
        "default it is named and left out.",
    )
    find_cuts: bool = Field(
        True,
        description="Detect cuts, so that no clip crosses one; each video file is decoded once before the first step.",
    )
    height: int = Field(96, ge=32, description="Rows of a training frame.")
    width: int = Field(128, ge=32, description="Columns of a training frame.")
    flip: bool = Field(True, description="Mirror half of the clips, drawn at random.")
    max_zoom: float = Field(
        1.0, ge=1, le=4, description="Clips are zoomed in by up to this factor, and cropped at a random place."
    )
    max_rotation_deg: float = Field(
        0.0, ge=0, le=45, description="Clips are rotated by up to this angle, in both directions."
    )
    exposure: float = Field(0.0, ge=0, description="Standard deviation of the log exposure drawn for each frame.")
    white_balance: float = Field(0.0, ge=0, description="Standard deviation of the log gain of each colour of a frame.")
    gamma: float = Field(0.0, ge=0, description="Standard deviation of the log gamma drawn for each frame.")
    noise: float = Field(0.0, ge=0, description="Standard deviation of sensor noise at mid grey, frames in [0, 1].")
    vignetting: float = Field(
        0.0, ge=0, description="Standard deviation of the log gain of a smooth field over each frame."
    )
    blur: float = Field(0.0, ge=0, description="Standard deviation of the Gaussian blur drawn for each frame, pixels.")
    jpeg: float = Field(0.0, ge=0, le=1, description="JPEG quality of each frame is lowered by up to this share.")
    max_crf: int = Field(0, ge=0, le=51, description="Clips are encoded as H.264 with a CRF of up to this; 0: never.")
    cached_clips: int = Field(
        2000, ge=0, description="Decoded clips of a source kept in memory by each loader process."
    )
    workers: int = Field(0, ge=0, description="Loader processes; 0 loads between the steps.")

    @model_validator(mode="after")
    def _root_or_sources(self) -> "DataConfig":
        if (self.root is None) == (not self.sources):
            raise ValueError("give either root or sources, a list of {root: ..., labels: ..., share: ...}")
        if self.sources and self.labels != "depth":
            raise ValueError("labels: each of the sources has its own")
        return self

    def all_sources(self) -> tuple[SourceConfig, ...]:
        """The sources with their own motion; `root` is one as well."""
        if self.root is not None:
            return (SourceConfig(root=self.root, labels=self.labels, motion=self.motion),)
        return tuple(one.model_copy(update={"motion": one.motion or self.motion}) for one in self.sources)
