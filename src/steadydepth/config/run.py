"""Every key of a run, with its default, its bounds and what it means; those of its data are in `config.data`."""

from os import sep
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from steadydepth.config.data import DataConfig, Section


class ModelConfig(Section):
    """The network, or the model to start from."""

    init: str | None = Field(
        None,
        description="A model to start from: a folder, a hub name or package.module:factory (docs/models.md). It sets "
        "`encoder` to `max_side` (but see `upsampling`).",
    )
    encoder: str = Field("tf_efficientnet_lite0", description="A timm encoder: a convolutional net, or a ViT.")
    weights: str = Field("package", description="package, timm (downloads), none, or a file of encoder weights.")
    decoder_width: int = Field(48, ge=8, description="Channels of the decoder.")
    upsampling: Literal["bilinear", "guided"] | None = Field(
        None,
        description="Upsampling of the decoder: bilinear, or guided (edges follow the finest features of the image). "
        "Default: that of `init`, or bilinear. An `init` that train wrote can be made guided.",
    )
    min_depth: float = Field(0.3, gt=0, description="Nearest depth the network can predict, metres.")
    max_depth: float = Field(20.0, gt=0, description="Farthest depth the network can predict, metres.")
    max_side: int | None = Field(
        None,
        ge=32,
        description="Longer side, pixels, of images in use: larger ones are shrunk to it.",
    )
    claims: Literal["metric", "scale", "affine", "disparity"] | None = Field(
        None,
        description="What its numbers mean: metres, or depth or inverse depth up to a factor (and an offset). "
        "Default: what is known of `init`, or metres.",
    )
    train: tuple[str, ...] = Field(
        (),
        description="Parts that are trained: encoder, decoder, norms, coarse (layers at a twelfth of the resolution of "
        "the image or less), or beginnings of parameter names. Default: all.",
    )
    lora: int = Field(
        0,
        ge=0,
        description="Rank of LoRA adapters that are trained in place of the encoder's weights; merged when saved.",
    )
    checkpointing: bool = Field(
        False, description="Gradient checkpointing: less memory in training, but the encoder is computed twice."
    )

    @field_validator("init", "weights")
    @classmethod
    def _with_slashes_alone(cls, value: str | None) -> str | None:
        """A name that is a path of Windows has slashes, as all paths in a config, so that it is one elsewhere too."""
        return None if value is None else value.replace(sep, "/")


class LossConfig(Section):
    """Target loss = absolute + relative_weight x relative."""

    absolute: Literal["log_l1", "silog", "affine_invariant"] = Field(
        "log_l1", description="The loss of each frame against its label."
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
        description="Comparison between two frames; `change`: the change of log depth with the true change.",
    )
    robust: Literal["l1", "huber", "charbonnier", "l2"] = Field("l1", description="Penalty of an error of the change.")
    trim: float = Field(
        0.0, ge=0, lt=1, description="Share of the pairs of a clip that is left out: those with the largest errors."
    )
    frame_offsets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1,), min_length=1, description="Frame i is paired with frame i - offset, for each offset."
    )
    both_frames: bool = Field(True, description="false: no gradient for the earlier frame of a pair.")
    moving_weight: float = Field(
        0.0, ge=0, description="Extra weight, inside the relative loss, of pairs whose true depth changes."
    )
    relative_gradient: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the relative loss, of multi-scale gradient matching of the change.",
    )
    relative_features: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the relative loss, of the difference of the last layer's input features between "
        "the frames of a clip of one repeated frame (stride 0).",
    )
    motion_gain_weight: float = Field(
        0.0,
        ge=0,
        description="Weight, inside the relative loss, of the motion gain's distance from 1 (predicted share of the "
        "true change).",
    )
    relative_weight: float = Field(1.0, ge=0, description="Weight of the relative loss; 0 trains the plain model.")
    min_log_depth_correlation: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Without labels: least log-depth correlation with the starting model. Below it the run restores "
        "earlier weights and halves the learning rate; 0: never.",
    )
    min_edges_kept: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Without labels: least share of the starting model's edges (`edges_kept`), with the same effect.",
    )
    relative_ramp: float = Field(
        0.33, ge=0, le=1, description="`relative_weight` grows from 0 over this share of the steps."
    )


class OptimConfig(Section):
    """The optimizer and its learning rate."""

    steps: int = Field(ge=1, description="Weight updates.")
    batch: int = Field(4, ge=1, description="Clips in a step, over all processes.")
    accumulate: int = Field(
        1, ge=1, description="The clips of a step pass through the network in so many parts, to save memory."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Highest learning rate of the decoder.")
    encoder_learning_rate: float = Field(
        0.3, ge=0, description="The encoder's learning rate, as a share of `learning_rate`."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of each layer of the encoder, as a share of the next layer's.",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps over which the learning rate grows from 0.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay (none for biases and norms).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients with a larger norm are scaled to this norm.")
    max_skipped: int = Field(
        10, ge=1, description="Steps without a finite gradient are skipped; so many in a row stop the run."
    )
    freeze_batch_norm_after: float = Field(
        1.0, ge=0, le=1, description="Batch norm statistics are frozen after this share of the steps: 0 to fine-tune."
    )
    average: float = Field(
        0.99, ge=0, lt=1, description="Decay of the running average (EMA) of the weights; the average is saved."
    )


class RunConfig(Section):
    """Folder, device and precision of the run, and how often it writes."""

    folder: Path = Field(description="Run folder: config, metrics.jsonl, checkpoint and model.")
    seed: int = Field(0, ge=0, description="Determines starting weights, data order and augmentation.")
    device: Literal["auto", "cpu"] = Field("auto", description="auto takes a GPU if there is one.")
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="bf16, or fp16 on a GPU: the network computes in 16 bits; losses and weights stay in 32."
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any) -> Any:
        """YAML reads `no` as false."""
        return "no" if value is False else value

    compile: bool = Field(
        False, description="Compile the network in training (torch.compile), for GPUs: the first step takes minutes."
    )
    shard: bool = Field(
        False, description="Shard weights, gradients and optimizer over the processes (FSDP2), for large models."
    )
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    validate_every: int = Field(
        0, ge=0, description="Steps between evaluations on `data.validation`, a multiple of `log_every`; 0: never."
    )
    best_by: str = Field("abs_rel", description="Metric of evaluate by which best/ keeps the best model.")
    patience: int = Field(0, ge=0, description="Stop after so many evaluations in a row without improvement; 0: never.")
    tracker: Literal["tensorboard", "wandb", "mlflow", "trackio"] | None = Field(
        None, description="Tracker that also receives the lines of metrics.jsonl; its package must be installed."
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
        has_stills = 0 in self.data.strides and not all(one.single for one in sources)
        if self.loss.relative_features > 0 and not has_stills:
            wrong.append(
                "loss.relative_features: compares the frames of stills, and no clip is one: add 0 to data.strides, "
                "and a source that is not single"
            )
        if all(one.labels == "none" for one in sources):
            wrong.append(
                "data.sources: without any labels a constant is best: give one of them labels depth or teacher"
            )
        if self.model.init is None and any(one.labels == "teacher" for one in sources):
            wrong.append(
                "data: labels teacher is the depth of the starting model, and this run starts from none: give "
                "model.init, or take labels none"
            )
        if self.model.lora and self.model.train:
            wrong.append(
                "model.lora: trains adapters and the decoder, and model.train other parts: leave one of them out"
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self
