"""Any depth model of transformers as a video model: its own image processing on tensors, in and out unchanged."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steadydepth.errors import import_extra
from steadydepth.models.claimed import floor_depth
from steadydepth.models.declare import SIDECAR, Declared, claims_or_refuse
from steadydepth.types import Claims, Depth, Frames, InputError, State

logger = logging.getLogger(__name__)

# What a kind of model claims, according to its authors: (model_type, depth_estimation_type or the backbone's type).
# None stands for all of a model_type. DPT is here for MiDaS's backbones alone: with DINOv2 there are metric ones too.
CLAIMS: dict[tuple[str, str | None], Claims] = {
    ("depth_anything", "relative"): "disparity",
    ("depth_anything", "metric"): "metric",
    ("depth_pro", None): "metric",
    ("dpt", "bit"): "disparity",
    ("dpt", "beit"): "disparity",
    ("dpt", "swin"): "disparity",
    ("dpt", "swinv2"): "disparity",
    ("dpt", "vit"): "disparity",
    ("glpn", None): "metric",
    # Without a depth prompt it is right up to the range that the prompt would have given.
    ("prompt_depth_anything", None): "affine",
    ("tipsv2_dpt", None): "metric",
    ("zoedepth", None): "metric",
}
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
MOST_MISSING = 0.1  # share of the weights a file may lack: some layers are in the code and never used


class TransformersDepth(nn.Module):
    """A transformers depth model and its image processor; `network` is the model itself.

    Frames are rounded to 8 bits, as the images are that the processor is made for; what comes out is what
    transformers' own pipeline gives for each frame; depths are floored. A gradient to the frames goes through the
    processor's resize, as if nothing had been rounded.

    Args:
        network: the model of transformers.
        processor: its image processor.
        claims: what its numbers mean.
        files: the processor's files unchanged, by name, to be saved with the model.
    """

    def __init__(self, network: nn.Module, processor: Any, claims: Claims, files: dict[str, bytes]) -> None:
        super().__init__()
        self.network, self.processor = network, processor
        self.claims: Claims = claims
        self.files = files
        # What it resizes. A graph for other runtimes has no resize of integers; export compares like with like.
        self.rounds_pixels = True

    def forward(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]:
        """The prediction for each frame by itself, in the units of `claims`, floored where it is a depth; no state."""
        b, t, _, h, w = frames.shape
        outputs = self.network(pixel_values=self._to_pixels(frames.flatten(0, 1)))
        outputs["predicted_depth"] = outputs["predicted_depth"].float()
        predicted = self.processor.post_process_depth_estimation(outputs, [(h, w)] * (b * t))
        depth = torch.stack([one["predicted_depth"].reshape(h, w) for one in predicted])
        # Bicubic resizing goes below 0 beside an edge.
        return floor_depth(depth, self.claims).unflatten(0, (b, t)), {}

    def _to_pixels(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 _ _"]:
        smooth = images * 255
        if torch.compiler.is_exporting() or not self.rounds_pixels:
            return self._process(smooth)
        pixels = self._process(smooth.detach().round().clamp(0, 255).to(torch.uint8))
        if images.requires_grad:
            with_gradient = self._process(smooth)
            pixels = with_gradient + (pixels - with_gradient).detach()
        return pixels

    def _process(self, images: Tensor) -> Tensor:
        try:
            made = self.processor(images=list(images), input_data_format="channels_first", return_tensors="pt")
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):  # whoever asked may ask for fewer frames
                raise
            h, w = images.shape[-2:]
            raise InputError(
                f"frames are {h} x {w}, which {type(self.processor).__name__} cannot take: {error}: resize them"
            ) from error
        return made["pixel_values"]

    def save_pretrained(self, folder: str | Path) -> None:
        """What transformers loads without this package, and beside it what the model claims."""
        folder = Path(folder)
        self.network.save_pretrained(folder)  # type: ignore[operator]
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        (folder / SIDECAR).write_text(json.dumps({"claims": self.claims}, indent=2) + "\n", encoding="utf-8")


def load_transformers(folder: Path, name: str, declared: Declared) -> TransformersDepth:
    """The depth model in a folder that transformers wrote, in float32.

    Args:
        folder: with config.json, weights and the processor's config.
        name: what the user calls the model, for errors.
        declared: its claims, where the table has none.

    Raises:
        InputError: transformers is not installed or cannot load it, or the claims are not known.
    """
    from huggingface_hub.errors import StrictDataclassError

    library = import_extra("transformers", "transformers", f"{name}: a transformers model, which needs the extra")
    declared.only(name, "claims")
    try:
        config = library.AutoConfig.from_pretrained(folder)
        kind = _kind(config)
        claims = claims_or_refuse(name, declared.claims or CLAIMS.get(kind) or CLAIMS.get((kind[0], None)), kind)
        processor = library.AutoImageProcessor.from_pretrained(folder)
        # dtype: a step in float16 would lose what is learned.
        network, loaded = library.AutoModelForDepthEstimation.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise InputError(f"{name}: transformers cannot load it: {' '.join(str(error).split())[:400]}") from error
    _check_weights(name, network, loaded)
    files = {file: (folder / file).read_bytes() for file in PROCESSOR_FILES if (folder / file).is_file()}
    return TransformersDepth(network, processor, claims, files).eval()


def _kind(config: Any) -> tuple[str, str | None]:
    if config.model_type == "dpt":
        # Without a backbone of its own a DPT is built around a ViT.
        return "dpt", getattr(config.backbone_config, "model_type", "vit")
    return config.model_type, getattr(config, "depth_estimation_type", None)


def _check_weights(name: str, network: nn.Module, loaded: dict[str, Any]) -> None:
    """Refuse a file that leaves the network random; log which weights it lacks where they are few."""
    missing = sorted(loaded["missing_keys"])
    if len(missing) > MOST_MISSING * len(network.state_dict()):
        raise InputError(
            f"{name}: its weights are of another model: {len(missing)} are missing, {', '.join(missing[:3])} and more"
        )
    if missing:
        logger.warning("%s: not in its file, and random: %s", name, ", ".join(missing))
