"""Every key of a run, of a comparison and of a search, with its default, its bounds and what it means."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="after")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """A path with ~ is one in a home."""
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError as error:  # of a user who is not there
            raise ValueError(f"{error}: write the complete path") from error


LABELS = "depth: measured depth of the sequences; teacher: the starting model behind the learned filter"


class SyntheticConfig(Section):
    """Clips that are rendered while training, of `data.clip_length` frames and the size of training frames."""

    assets: Path | None = Field(
        None, description="File of models that `data assets` wrote; without it boxes, balls, cylinders and cones."
    )
    textures: Path | None = Field(None, description="Folder of images that surfaces take as textures.")
    repeats: int = Field(
        1, ge=1, description="Each clip is shown so many times, by other cameras: rendering costs less, and shows less."
    )
    keep: Path | None = Field(
        None, description="Folder that takes what is rendered, for other runs and for `repeats` over the complete run."
    )


class SourceConfig(Section):
    """One of the `data.sources` of a run on several folders."""

    root: Path | None = Field(None, description="Folder of sequence folders or video files.")
    synthetic: SyntheticConfig | None = Field(
        None, description="In place of `root`: the synthetic world, rendered on the device of the run."
    )
    labels: Literal["depth", "teacher", "none"] = Field("depth", description=f"{LABELS}; none: relative loss alone.")
    share: float = Field(
        1.0, ge=0.001, description="Its share of the samples, relative to the other shares, to a thousandth."
    )
    single: bool = Field(False, description="Frames are single images, drawn one by one: absolute loss alone.")
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
        return self

    @model_validator(mode="after")
    def _images_have_depth(self) -> "SourceConfig":
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
        description="Labels teacher: of the learned filter, there and back over each video; 0: the model as it is.",
    )
    validation: Path | None = Field(None, description="Folder of clips with depth that `run.validate_every` scores.")
    motion: Literal["none", "flow", "dis"] = Field(
        "flow", description="Pairs at the same pixel, along the flow files, or along DIS flow of the frames."
    )
    clip_length: int = Field(3, ge=2, description="Frames in a clip.")
    strides: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (1,),
        min_length=1,
        description="Steps between the frames, one drawn per clip; 0 repeats one frame, with another photometric draw.",
    )
    strict: bool = Field(
        False, description="Stop at a sequence or an image that cannot be read; without it, it is named and left out."
    )
    find_cuts: bool = Field(
        True,
        description="No clip crosses a cut between shots; each video file is decoded once, before the first step.",
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


class ModelConfig(Section):
    """The network, or the model to start from."""

    init: str | None = Field(
        None,
        description="A model to start from: a folder, a hub name or package.module:factory (docs/models.md); `encoder` "
        "to `max_side` are then its own.",
    )
    encoder: str = Field("tf_efficientnet_lite0", description="A timm encoder: a convolutional net, or a ViT.")
    weights: str = Field("package", description="package, timm (downloads), none, or a file of encoder weights.")
    decoder_width: int = Field(48, ge=8, description="Channels of the decoder.")
    min_depth: float = Field(0.3, gt=0, description="Nearest depth the network can predict, metres.")
    max_depth: float = Field(20.0, gt=0, description="Farthest depth the network can predict, metres.")
    max_side: int | None = Field(
        None,
        ge=32,
        description="Longer side in pixels of the images that it is for: longer ones are shrunk to it in use.",
    )
    claims: Literal["metric", "scale", "affine", "disparity"] | None = Field(
        None,
        description="What its numbers mean: metres, or depth or inverse depth up to a factor (and an offset). Without "
        "it metres, or what is known of `init`.",
    )
    train: tuple[str, ...] = Field(
        (), description="What is trained: encoder, decoder, norms, or beginnings of parameter names; all without it."
    )
    lora: int = Field(
        0,
        ge=0,
        description="Rank of LoRA adapters that are trained in place of the encoder's weights; merged when saved.",
    )
    checkpointing: bool = Field(
        False, description="Gradient checkpointing: less memory in training, for computing the encoder twice."
    )


class LossConfig(Section):
    """Target loss = absolute + relative_weight x relative."""

    absolute: Literal["log_l1", "silog", "affine_invariant"] = Field(
        "log_l1", description="Each frame against its label."
    )
    gradient: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the absolute loss, of multi-scale gradient matching of log depth.",
    )
    edges: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the absolute loss, of the contrast that edges of the label lose.",
    )
    smoothness: float = Field(
        0.0, ge=0, description="Weight, inside the absolute loss, of the partial derivatives of log depth itself."
    )
    edge_aware: bool = Field(True, description="`smoothness` is relaxed at the edges of the image.")
    relative: Literal["change", "warping", "geometry", "disparity", "disparity_size"] = Field(
        "change",
        description="What is compared between two frames; `change`: the change of log depth with the true change.",
    )
    robust: Literal["l1", "huber", "charbonnier", "l2"] = Field("l1", description="How an error of the change counts.")
    trim: float = Field(
        0.0, ge=0, lt=1, description="Share of the pairs of a clip that is left out, those with the largest errors."
    )
    frame_offsets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1,), min_length=1, description="Frame i is paired with frame i - offset, for each of them."
    )
    both_frames: bool = Field(True, description="False: no gradient for the earlier frame of a pair.")
    moving_weight: float = Field(
        0.0, ge=0, description="Extra weight, inside the relative loss, of pairs whose true depth changes."
    )
    relative_gradient: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the relative loss, of multi-scale gradient matching of the change.",
    )
    motion_gain_weight: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the relative loss, of the distance of the motion gain, the predicted share of the "
        "true change, from 1.",
    )
    relative_weight: float = Field(1.0, ge=0, description="0 trains the plain model: absolute loss only.")
    min_log_depth_correlation: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Without labels: least log-depth correlation with the starting model; below it the run goes "
        "back to the weights before, and on with half of the learning rate; 0: never.",
    )
    min_edges_kept: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Without labels: least share of the starting model's edges (`edges_kept`), as the correlation.",
    )
    relative_ramp: float = Field(0.33, ge=0, le=1, description="The weight grows from 0 over this share of the steps.")


class OptimConfig(Section):
    """The optimizer and its learning rate."""

    steps: int = Field(ge=1, description="Weight updates.")
    batch: int = Field(4, ge=1, description="Clips in a step, over all processes.")
    accumulate: int = Field(
        1, ge=1, description="The clips of a step pass through the network in so many parts, for less memory."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Highest learning rate, of the decoder.")
    encoder_learning_rate: float = Field(
        0.3, ge=0, description="The encoder's learning rate, as a share of `learning_rate`."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of each layer of the encoder, as a share of that of the layer after it.",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps over which the learning rate grows from 0.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay (none for biases and norms).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients with a larger norm are scaled to this norm.")
    max_skipped: int = Field(
        10, ge=1, description="So many steps in a row without a finite gradient stop the run; fewer are skipped."
    )
    freeze_batch_norm_after: float = Field(
        1.0, ge=0, le=1, description="Batch norm keeps its statistics after this share of the steps: 0 to fine-tune."
    )
    average: float = Field(
        0.99, ge=0, lt=1, description="Decay of the running average (EMA) of the weights; the average is saved."
    )


class RunConfig(Section):
    """Where the run lives and how often it writes."""

    folder: Path = Field(description="Run folder: config, metrics.jsonl, checkpoint and model.")
    seed: int = Field(0, ge=0, description="Starting weights, data order and augmentation follow from it.")
    device: Literal["auto", "cpu"] = Field("auto", description="auto takes a GPU when there is one.")
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="bf16, or fp16 on a GPU, computes the network in 16 bits; losses and weights stay in 32."
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        """YAML reads `no` as false."""
        return "no" if value is False else value

    compile: bool = Field(
        False, description="torch.compile the network in training, for GPUs: the first step takes minutes."
    )
    shard: bool = Field(
        False, description="Shard weights, gradients and optimizer over the processes (FSDP2), for large models."
    )
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    validate_every: int = Field(
        0, ge=0, description="Steps between evaluations on `data.validation`, a multiple of `log_every`; 0: never."
    )
    best_by: str = Field("abs_rel", description="The metric of evaluate whose best model is kept in best/.")
    patience: int = Field(
        0, ge=0, description="So many evaluations in a row that are no better stop the run; 0 never does."
    )
    tracker: Literal["tensorboard", "wandb", "mlflow", "trackio"] | None = Field(
        None, description="Where the lines of metrics.jsonl go as well; its package must be installed."
    )


class Config(Section):
    """One run."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig
    run: RunConfig

    @model_validator(mode="after")
    def _validation_at_lines(self) -> "Config":
        if self.run.validate_every % self.run.log_every:
            raise ValueError(f"run.validate_every: must be a multiple of run.log_every, {self.run.log_every}")
        if (self.data.validation is None) == (self.run.validate_every > 0):
            raise ValueError("data.validation and run.validate_every: give both, or neither")
        return self

    @model_validator(mode="after")
    def _label_is_there(self) -> "Config":
        """A line for each loss that asks for a label that the data does not have."""
        sources = self.data.all_sources()
        wrong = []
        if self.loss.relative.startswith("disparity") and any(one.labels != "depth" for one in sources):
            wrong.append(
                "loss.relative: the disparity forms are of metres, which data.labels=teacher or none does not have: "
                "take change, warping or geometry"
            )
        if self.loss.motion_gain_weight > 0 and all(one.labels == "none" or one.single for one in sources):
            wrong.append("loss.motion_gain_weight: looks at how the label changes, and no clip has one: set it to 0")
        if all(one.labels == "none" for one in sources):
            wrong.append(
                "data.sources: without any labels a constant is best: give one of them labels depth or teacher"
            )
        if self.model.init is None and any(one.labels == "teacher" for one in sources):
            wrong.append(
                "data: labels teacher is the depth of the starting model, and this run starts from none: give "
                "model.init, or take labels none"
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


Override = Annotated[str, StringConstraints(pattern=r"^\w+\.\w+=")]  # section.key=value
MethodName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.+-]*$")]
# Causal filters that need no training (`ops.smoothing`); the names of evaluate's controls and of --filter.
FilterName = Literal["ema", "ema_0.8", "median", "flow_ema"]


class CurveConfig(Section):
    """More runs of one method, one for each value of a key: accuracy against temporal consistency."""

    method: str = Field(description="The method that is varied.")
    key: str = Field("loss.relative_weight", description="What is varied.")
    values: tuple[float, ...] = Field(min_length=1, description="Its values, in the order of the line.")
    seeds: tuple[int, ...] | None = Field(None, min_length=1, description="Seeds of these runs; all without it.")


class CompareConfig(Section):
    """Several methods from one start, on one data order, for one budget; every seed of every method is a run."""

    base: Path = Field(description="The training config that all methods share.")
    set: tuple[Override, ...] = Field((), description="`section.key=value` on top of it, for all methods.")
    test: Path = Field(description="Sequences that every run is evaluated on.")
    out: Path = Field(description="Folder of the runs, the table and the page.")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="A run of every method for each.")
    jobs: int = Field(1, ge=1, description="Runs side by side, each on its share of the cores.")
    align: str = Field("auto", description="How predictions are aligned to the label, as in evaluate.")
    protocol: str = Field("plain", description="Which pixels count, as in evaluate.")
    methods: dict[MethodName, tuple[Override, ...]] = Field(
        min_length=1, description="What each method changes; the others are divided by the first."
    )
    curve: CurveConfig | None = Field(None, description="More runs: one method over the values of a key.")
    filters: dict[str, tuple[FilterName, ...]] | None = Field(
        None, description="Filters of a method's predictions that get a row; all, of the first method, without it."
    )


class RangeConfig(Section):
    """The range in which a key is searched."""

    low: float = Field(allow_inf_nan=False, description="Its smallest value.")
    high: float = Field(allow_inf_nan=False, description="Its largest value.")
    log: bool = Field(False, description="Tried evenly in its logarithm: for learning rates and weights, above 0.")

    @model_validator(mode="after")
    def _has_room(self) -> "RangeConfig":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g}, high {self.high:g}: low must be below high, and above 0 with log")
        return self


class SearchConfig(Section):
    """Values of numeric keys that give the best metric; every trial is a run."""

    base: Path = Field(description="The training config that all runs share.")
    set: tuple[Override, ...] = Field((), description="`section.key=value` on top of it, for all runs.")
    ranges: dict[str, RangeConfig] = Field(min_length=1, description="`section.key` of each number that is searched.")
    validation: Path = Field(
        description="Sequences that every run is scored on; not those that the result is tested on."
    )
    out: Path = Field(description="Folder of the runs, the table and the best config.")
    trials: int = Field(20, ge=1, description="How many values of the keys are tried.")
    jobs: int = Field(1, ge=1, description="Runs side by side, each on its share of the cores.")
    metric: str = Field("flicker", description="The metric of evaluate that is to be best.")
    keep: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {"abs_rel": 0.02, "edge_gain": 0.03},
        description="Metrics that may be worse than those of the plain run (`loss.relative_weight` 0) by this share; "
        "empty leaves the plain run out.",
    )
    align: str = Field("auto", description="How predictions are aligned to the label, as in evaluate.")
    protocol: str = Field("plain", description="Which pixels count, as in evaluate.")


class FilterConfig(Section):
    """How the learned filter is trained, on rendered clips: of imagined networks, and of `base` where it is given."""

    out: Path = Field(description="File of weights, .safetensors.")
    data: Path = Field(Path("runs/filter/world"), description="Folder of the synthetic world; rendered where missing.")
    clips: int = Field(100, ge=2, description="Clips of the world.")
    clip_length: int = Field(32, ge=4, description="Frames of each.")
    world_seed: int = Field(5000, ge=0, description="Seed of the first clip.")
    workers: int = Field(2, ge=1, description="Processes that render, and then draw what is learned from.")
    device: str = Field("cpu", description="Where the filter learns: cpu, cuda, ...")
    base: Path | None = Field(None, description="Folder of a metric model that train wrote; it stays as it is.")
    real_share: float = Field(0.3, ge=0, le=1, description="Batches of what `base` predicts; the rest is imagined.")
    sequences: int = Field(230, ge=1, description="Batches of sequences to learn from.")
    minutes: float | None = Field(None, gt=0, description="Learn for so long at the most; the rate falls by the clock.")
    batch: int = Field(3, ge=1, description="Sequences in a batch.")
    frames: int = Field(24, ge=2, description="Frames of a sequence.")
    chunk: int = Field(8, ge=2, description="Frames that the gradient runs back through.")
    learning_rate: float = Field(3e-3, gt=0, description="The highest of the schedule.")
    relative_weight: float = Field(3.0, ge=0, description="Of the change of the error of a point, beside the error.")
    edge_weight: float = Field(0.3, ge=0, description="Of the differences of the error between neighbours.")
    contrast_weight: float = Field(2.0, ge=0, description="Of the contrast of the network's own edges that is lost.")
    trail_weight: float = Field(1.0, ge=0, description="Of what is worse than without, where a point is new.")
    width: int = Field(16, ge=4, description="Channels of the network.")
    log_every: int = Field(20, ge=1, description="Batches between two lines of the log.")
    seed: int = Field(0, ge=0, description="Of all that is drawn.")
