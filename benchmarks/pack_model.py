"""A model of a finished run, or the mean of several, as it travels in the package: weights of 16 bits, an image size.

python benchmarks/pack_model.py runs/ready/steady src/steadydepth/models/steadydepth_small --max-side 256
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    """Parse, pack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="of several the mean of the weights is packed")
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-side", type=int)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    size = pack_weights([run / "model.safetensors" for run in arguments.runs], arguments.out / "model.safetensors")
    config = json.loads((arguments.runs[0] / "config.json").read_text()) | {"max_side": arguments.max_side}
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(f"{arguments.out}: {size / 1e6:.2f} MB")


def pack_weights(weights: list[Path], out: Path) -> int:
    """Write the mean of the weights in 16 bits; returns the bytes of the file."""
    first, *others = (load_file(one) for one in weights)
    for name, one in first.items():
        if one.is_floating_point():
            mean = sum((other[name].float() for other in others), one.float()) / len(weights)
            first[name] = mean.half().contiguous()
    save_file(first, out)
    return out.stat().st_size


if __name__ == "__main__":
    main()
