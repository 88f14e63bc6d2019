"""The smallest model of each depth architecture of transformers, with random weights that say something."""

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForDepthEstimation

VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 37}
PATCH_14 = VIT | {"image_size": 56, "patch_size": 14}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False}
NECK = {"neck_hidden_sizes": [8, 16, 24, 32], "fusion_hidden_size": 16}
DEPTH_ANYTHING = {"reassemble_hidden_size": 32, "patch_size": 14, "head_hidden_size": 8} | NECK
DEPTH_PRO_VIT = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
DEPTH_PRO_VIT |= {"mlp_ratio": 2, "image_size": 16, "patch_size": 4}


def dinov2(**more):
    return CONFIG_MAPPING["dinov2"](**(PATCH_14 | STAGES | {"apply_layernorm": False} | more))


CONFIGS = {
    "depth_anything": lambda: {"backbone_config": dinov2()} | DEPTH_ANYTHING,
    "depth_anything metric": lambda: (
        {"backbone_config": dinov2(), "depth_estimation_type": "metric", "max_depth": 20} | DEPTH_ANYTHING
    ),
    "prompt_depth_anything": lambda: {"backbone_config": dinov2()} | DEPTH_ANYTHING,
    "dpt": lambda: VIT | {"image_size": 32, "patch_size": 8, "backbone_out_indices": [0, 1, 2, 3]} | NECK,
    "zoedepth": lambda: {
        "backbone_config": CONFIG_MAPPING["beit"](
            **(VIT | STAGES | {"image_size": 32, "patch_size": 8, "use_relative_position_bias": True})
        ),
        "num_relative_features": 8, "bottleneck_features": 16, "bin_embedding_dim": 8, "num_attractors": [4, 3, 2, 1],
        "bin_configurations": [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    } | NECK,
    "glpn": lambda: {
        "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "depth_pro": lambda: {
        "patch_size": 16, "fusion_hidden_size": 8, "intermediate_hook_ids": [1, 0], "intermediate_feature_dims": [8, 8],
        "scaled_images_ratios": [0.5, 1.0], "scaled_images_overlap_ratios": [0.0, 0.2],
        "scaled_images_feature_dims": [12, 12], "merge_padding_value": 1, "use_fov_model": True,
    } | {f"{part}_model_config": dict(DEPTH_PRO_VIT) for part in ("image", "patch", "fov")},
    "chmv2": lambda: {
        "backbone_config": CONFIG_MAPPING["dinov3_vit"](
            **VIT, patch_size=16, out_indices=[1, 2, 3, 4], reshape_hidden_states=True, apply_layernorm=True,
            return_class_token=True,
        ),
        "post_process_channels": [8, 16, 24, 32], "fusion_hidden_size": 16, "head_hidden_size": 8,
        "number_output_channels": 16,
    },
    "tipsv2_dpt": lambda: {
        "backbone_config": CONFIG_MAPPING["tipsv2_vision_model"](
            **PATCH_14, out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False
        ),
        "num_depth_bins": 16,
    } | NECK,
}  # fmt: skip

# The rules of the released models, at a tenth of their sizes.
PROCESSORS = {
    "depth_anything": (
        "DPT",
        {"size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": 14, "resample": 3},
    ),
    "prompt_depth_anything": (
        "PromptDepthAnything",
        {"size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": 14},
    ),
    "dpt": ("DPT", {"size": {"height": 64, "width": 64}, "do_pad": True, "size_divisor": 16}),
    "zoedepth": ("ZoeDepth", {"size": {"height": 64, "width": 96}, "ensure_multiple_of": 32}),
    "glpn": ("GLPN", {}),
    "depth_pro": ("DepthPro", {"size": {"height": 32, "width": 32}}),
    "chmv2": ("CHMv2", {"size": {"height": 64, "width": 64}}),
    "tipsv2_dpt": ("Tipsv2Dpt", {"size": {"height": 56, "width": 56}}),
}


def save_tiny(kind, folder):
    """A model of `kind` and its image processor, as transformers writes them."""
    model_type = kind.split()[0]
    torch.manual_seed(0)
    model = AutoModelForDepthEstimation.from_config(CONFIG_MAPPING[model_type](**CONFIGS[kind]()))
    enliven(model)
    model.save_pretrained(folder)
    name, options = PROCESSORS[model_type]
    getattr(transformers, f"{name}ImageProcessor")(**options).save_pretrained(folder)
    return folder


def enliven(model):
    """At their random start these models say one number everywhere, or nothing but zeros."""
    with torch.no_grad():
        if getattr(model, "fov_model", None) is not None:
            model.fov_model.head.layers[-1].weight.zero_()
            model.fov_model.head.layers[-1].bias.fill_(60.0)  # degrees
            model.head.layers[-2].bias.fill_(1.0)
            return
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(4)
            if "head" in name and weight.ndim == 1:
                weight.add_(0.05)
