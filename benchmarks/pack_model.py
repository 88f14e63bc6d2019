"""Pack the model of a finished run for the package: 16-bit weights, and the image size that it is meant for.

python benchmarks/pack_model.py runs/ready/steady src/steadydepth/models/steadydepth_small --max-side 256
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    """Parse, pack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-side", type=int)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    size = pack_weights(arguments.run / "model.safetensors", arguments.out / "model.safetensors")
    config = json.loads((arguments.run / "config.json").read_text(encoding="utf-8")) | {"max_side": arguments.max_side}
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {size / 1e6:.2f} MB")


def pack_weights(weights: Path, out: Path) -> int:
    """Write the weights in 16 bits; returns the bytes of the file."""
    found = load_file(weights)
    save_file({name: one.half().contiguous() if one.is_floating_point() else one for name, one in found.items()}, out)
    return out.stat().st_size


if __name__ == "__main__":
    main()
