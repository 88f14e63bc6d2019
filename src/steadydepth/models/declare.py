"""What is declared of a model behind its name: `NAME,claims=disparity,multiple=14`. Declared, never guessed."""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

from steadydepth.errors import InputError
from steadydepth.video_types import Claims

SIDECAR = "steadydepth.json"  # beside a saved model: what it claims, and how its network is made

MEANINGS = (
    "metric (metres), scale (depth up to a factor), affine (depth up to a factor and an offset) or disparity (inverse "
    "depth up to a factor and an offset)"
)


@dataclass(frozen=True)
class Declared:
    """What the user, or the folder of a model, declares; None where nothing is."""

    claims: Claims | None = None
    multiple: int | None = None  # the network takes sizes that are multiples of this
    size: tuple[int, int] | None = None  # the network takes this one size, rows x columns
    normalise: str | None = None  # imagenet: frames less its mean, over its deviation
    weights: str | None = None  # a file for the network that a factory builds

    @property
    def given(self) -> dict[str, Any]:
        """What is declared, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def only(self, name: str, *known: str) -> None:
        """See that nothing is declared that this kind of model has no use for.

        Raises:
            InputError: something else is declared.
        """
        if unknown := [word for word in self.given if word not in known]:
            raise InputError(f"{name}: {', '.join(unknown)}: such a model takes only {', '.join(known)}")

    def over(self, other: "Declared") -> "Declared":
        """What is declared here, and where nothing is, what is there; a size rule replaces a size rule."""
        if self.size or self.multiple:
            other = replace(other, size=None, multiple=None)
        return replace(other, **self.given)


def split_name(name: str) -> tuple[str, Declared]:
    """The name of a model and what is declared behind its commas; a path that exists is a name as it is.

    Returns: the name without what is declared, and that.

    Raises:
        InputError: what is declared is unknown or malformed.
    """
    if Path(name).exists():
        return name, Declared()
    plain, *words = name.split(",")
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    return plain, read_declared(given, name)


def read_declared(given: dict[str, Any], where: str) -> Declared:
    """Check what is declared; `where` names it in an error.

    Args:
        given: values by the names of the fields of `Declared`.
        where: the file or name, for errors.

    Raises:
        InputError: a name is unknown, a value malformed, or `multiple` and `size` are both given.
    """
    if unknown := sorted(set(given) - {field.name for field in fields(Declared)}):
        raise InputError(
            f"{where}: {', '.join(unknown)}: unknown; a name may be followed by ,claims= ,multiple= ,size=HxW "
            ",normalise=imagenet ,weights=FILE"
        )
    if given.get("multiple") is not None and given.get("size") is not None:
        raise InputError(f"{where}: multiple and size: the network takes one size or multiples: give one of them")
    if (normalise := given.get("normalise")) not in (None, "imagenet"):
        way_out = "there is imagenet; without it the network takes RGB in [0, 1]"
        raise InputError(f"{where}: normalise={normalise}: {way_out}")
    return Declared(
        claims=None if given.get("claims") is None else claims_or_refuse(where, given["claims"]),
        multiple=None if given.get("multiple") is None else _count(given["multiple"], where),
        size=None if given.get("size") is None else _size(given["size"], where),
        normalise=normalise,
        weights=given.get("weights"),
    )


def claims_or_refuse(where: str, claims: Any, kind: Any = None) -> Claims:
    """The claim, where it is one of the four words.

    Args:
        where: the file or name, for the error.
        claims: what is to be a claim.
        kind: of the model, for the error where nothing is declared.

    Raises:
        InputError: it is none; the error explains what to write.
    """
    if claims not in get_args(Claims):
        found = f"{claims!r} is no claim" if claims is not None else f"what its numbers mean is not known ({kind})"
        raise InputError(
            f"{where}: {found}: declare it as NAME,claims=WORD, or as model.claims in a config, WORD being {MEANINGS}"
        )
    return cast(Claims, claims)


def claims_of(model: object) -> Claims:
    """What `model` claims.

    Raises:
        InputError: it has no attribute `claims` with one of the four words.
    """
    claims = getattr(model, "claims", None)
    if claims not in get_args(Claims):
        raise InputError(
            f"the model ({type(model).__name__}) has claims {claims!r}; set its attribute `claims` to {MEANINGS}"
        )
    return cast(Claims, claims)


def _count(value: Any, where: str) -> int:
    if not re.fullmatch(r"\d{1,9}", str(value)) or int(value) < 1:
        raise InputError(f"{where}: multiple={value}: it is a number of pixels, such as 14")
    return int(value)


def _size(value: Any, where: str) -> tuple[int, int]:
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    words = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    height, width = words.groups() if words else (0, 0)
    if int(height) < 1 or int(width) < 1:
        raise InputError(f"{where}: size={value}: it is HEIGHTxWIDTH in pixels, such as 384x512")
    return int(height), int(width)
