"""The model card of a run, filled in from what lies in its folder, and the upload to the hub."""

import glob
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from steadydepth.config import Config, SyntheticConfig
from steadydepth.config_files import load_config
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.data.sequence_meta import read_meta
from steadydepth.data.shards.read import find_pack
from steadydepth.data.shards.store import url_of
from steadydepth.errors import InputError
from steadydepth.evaluation.stored_report import read_report
from steadydepth.evaluation.summary import table_rows
from steadydepth.files.atomic_writes import write_text
from steadydepth.files.damage import reading, short
from steadydepth.models.declare import SIDECAR
from steadydepth.models.load import model_files
from steadydepth.synthetic.assets import load_assets
from steadydepth.training.checkpoint import CARD
from steadydepth.training.log import LOG

_MEANINGS = {
    "metric": "metres along the optical axis",
    "scale": "depth up to one factor",
    "affine": "depth up to one factor and one offset",
    "disparity": "inverse depth up to one factor and one offset",
}
# What goes to the hub beside the model; none shows what it was trained or measured on.
_PUSHED_BESIDE = (CARD, "config.yaml", "metrics.json", LOG)


def write_card(folder: str | Path, *, licence: str | None = None) -> Path:
    """Write FOLDER/README.md, the model card of a finished run: claims, data, scores, and the command that made it.

    Args:
        folder: of the run. The scores are those that `evaluate --out FOLDER` left there for this model.
        licence: of the weights, as the hub names it; None keeps that of the card that is there. The licences of the
            data are in the card in any case.

    Returns: the path of the card.

    Raises:
        InputError: there is no finished run.
    """
    folder = Path(folder)
    is_ours = not (folder / SIDECAR).is_file()
    file = folder / ("config.json" if is_ours else SIDECAR)
    with reading(file, "as JSON", "give the folder of a finished run of train"):
        claims = json.loads(file.read_text(encoding="utf-8")).get("claims")
    if claims not in _MEANINGS:
        raise InputError(f"{file}: does not say what the model claims; give the folder of a finished run of train")
    config = load_config(folder / "config.yaml")
    # Of the models that are not ours, those of transformers have a config.json.
    is_transformers = not is_ours and (folder / "config.json").is_file()
    head: dict[str, Any] = {
        "library_name": "transformers" if is_transformers else "steadydepth",
        "pipeline_tag": "depth-estimation",
        "tags": ["depth-estimation", "video", "steadydepth"],
    }
    licence = licence or _licence_in(folder / CARD)
    head |= {"license": licence} if licence else {}
    if config.model.init is not None and not Path(config.model.init).exists():
        head["base_model"] = config.model.init.partition(",")[0]
    network = f"`{config.model.encoder}`, with a small decoder" if is_ours else "that of the model it was trained from"
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        f"# {folder.resolve().name}",
        "",
        f"A depth model that takes each frame by itself. It claims `{claims}`: {_MEANINGS[claims]}. Network: {network}"
        + (f"; started from `{config.model.init}`" if config.model.init else "")
        + f". Trained with the loss of two consecutive frames, weight {config.loss.relative_weight:g}.",
        "",
        "## Data",
        "",
        *_data_lines(config),
        "",
        f"Licence of these weights: {licence or 'not stated; the data above may ask for one'}.",
        "",
        *_score_lines(folder),
        "## How it was made",
        "",
        "    steadydepth train -c config.yaml",
        "",
        "with the `config.yaml` of this folder. To use it:",
        "",
        "    steadydepth predict clip.mp4 --model FOLDER --out depth --format mp4",
        "",
    ]
    write_text(folder / CARD, "\n".join(lines))
    return folder / CARD


def push(run: str | Path, name: str, *, licence: str | None = None, private: bool = False) -> str:
    """Put the model of a finished run on the hub, with its card filled in anew.

    What goes there is the model, its config, its card, its scores and the log of its losses. All else stays here:
    checkpoints, pages with images of the data, folders such as the videos of `stabilise`, and files of your own.

    Args:
        run: its folder.
        name: owner/name.
        licence: as of `write_card`.
        private: create a private repository.

    Returns: the address.

    Raises:
        InputError: there is no finished run, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = write_card(run, licence=licence).parent
    try:
        address = HfApi().create_repo(name, private=private, exist_ok=True)
        # In the hub's patterns a star crosses slashes, so each file is named.
        names = [path.name for path in model_files(folder)] + [
            one for one in _PUSHED_BESIDE if (folder / one).is_file()
        ]
        HfApi().upload_folder(repo_id=name, folder_path=folder, allow_patterns=[*map(glob.escape, sorted(names))])
    # Its bases: the hub's versions use one HTTP library or another, and no connection is an error of that library.
    except (OSError, HFValidationError, *HfHubHTTPError.__bases__) as error:  # type: ignore[misc]
        raise InputError(
            f"{name}: the hub does not take it: {short(error)}: check the name, `hf auth login` "
            f"and the network; {folder} is complete"
        ) from error
    return str(address)


def _licence_in(card: Path) -> str | None:
    """What the head of a card says, where there is one that can be read."""
    try:
        licence = yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1]).get("license")
    except (OSError, ValueError, IndexError, AttributeError, yaml.YAMLError):
        return None
    return licence if isinstance(licence, str) else None


def _data_lines(config: Config) -> Iterator[str]:
    """Each folder of the data, what labels were taken from it, and the origin of its sequences."""
    for source in config.data.all_sources():
        if source.synthetic is not None:
            yield from _rendered_lines(source.synthetic)
        if source.root is not None:
            labels = "its depth" if source.labels == "depth" else "no depth"
            yield f"- `{source.root}`, {labels}: {', '.join(_origins(source.root)) or 'origin and licence not stated'}"


def _rendered_lines(synthetic: SyntheticConfig) -> Iterator[str]:
    """The rendered world, and the credits of its models."""
    yield "- rendered while training, its depth: steadydepth synthetic world (CC0-1.0)"
    if synthetic.assets is not None and synthetic.assets.is_file():
        credits = Counter(one.split(";")[0] for one in load_assets(synthetic.assets).credits)
        yield from (f"- {count} of its models: {credit}" for credit, count in sorted(credits.items()))
    if synthetic.textures is not None:
        yield f"- images in `{synthetic.textures}` as textures: licence not stated"


def _origins(root: Path) -> list[str]:
    if url_of(root) is None and not root.exists():
        return []
    pack, paths = find_pack(root), find_sequences(root)
    metas = [pack.sequences[path.name].meta if pack else read_meta(path / "meta.json")[0] for path in paths]
    origins = {(one.source, one.licence) for one in metas if one and (one.source or one.licence)}
    return sorted(
        f"{source or 'origin not stated'} (licence: {licence or 'not stated'})" for source, licence in origins
    )


def _score_lines(folder: Path) -> Iterator[str]:
    """The headline metrics beside the controls, if an evaluation of this very folder lies in it."""
    if not (folder / "metrics.json").is_file():
        return
    report = read_report(folder)
    header = report["header"]
    is_of_this = header.get("model") is not None and Path(header["model"]).resolve() == folder.resolve()
    # A model behind a filter is not what the card is of.
    if not is_of_this or header.get("filter", "none") != "none" or not (rows := table_rows({"this model": report})):
        return
    columns = [name for name in rows[0] if name != "best"]
    yield from ("## Accuracy and temporal consistency", "")
    yield f"`{header['data']}`: {header['n_clips']} clips, {header['n_frames']} frames, alignment {header['align']}."
    yield from ("", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}")
    yield from (f"| {' | '.join(row[name] for name in columns)} |" for row in rows)
    yield ""
