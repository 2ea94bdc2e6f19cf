"""What Pathfinder pictures are made of, and the sets of such settings that were published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rpanoptic.errors import ConfigError, listed

FORMS = ("segmentation", "classification")
MAX_SIZE = 4096
MAX_ANTIALIAS = 16
MAX_CONTINUITY = 100
# Pixels on a side of the enlarged picture that is averaged: 256 MB.
_MAX_DRAWN = 16_384

_SEQUENCES = {"lengths": int, "contrasts": float}


class PathfinderError(ConfigError):
    """No picture has these settings; the message says which one is at fault and what would do."""


@dataclass(frozen=True, kw_only=True)
class PathfinderSettings:
    """What the pictures of a set are made of; equal ones draw equal pictures.

    A contour of L paddles is a chain of L edges. Each edge carries a paddle in its middle, with
    ``margin`` px left on either side, so that neighbouring paddles are ``2 * margin`` px apart and
    edges are ``paddle_length + 2 * margin`` px long. The defaults are those of Linsley et al.
    (NeurIPS 2020), for contours of 14 paddles (PF-14).

    Attributes:
        form: "segmentation": a disc marks an end of one of two contours, which is to be traced.
            "classification": two discs mark two ends; are they on one contour?
        lengths: paddles of each of the two contours, at least 2; sample i has
            ``lengths[i % len(lengths)]``.
        size: side of the square picture, px.
        border: px along the picture's sides that nothing enters.
        paddle_length: px, at least ``thickness``.
        thickness: of a paddle, px.
        margin: px from a paddle's end to the pivot of the next, and least distance between the ink
            of two contours, of two parts of one contour that are not neighbours, and of a disc
            and another contour.
        continuity: from 1 to 100; two neighbouring edges differ by an angle d, radians, with
            probability proportional to ``cos^2(min(continuity * |d|, pi / 2))``.
        contrasts: brightnesses in (0, 1]; each paddle has one of them, all equally likely.
        distractors: number of other, short contours, in every picture.
        distractor_length: paddles of each; 0 stands for a third of the contours' length, rounded
            down, and at least 1.
        marker_radius: of the disc, px. Its centre is the outer end of a contour's first paddle.
        seed_distance: px between the first ends of the two contours. The first contour begins at
            least twice as far from the border; in the classification form, the middle between
            the two.
        antialias: pictures are drawn so many times as large, and reduced by averaging.

    Raises:
        PathfinderError: a value is out of its range or leaves no room for a contour's first end;
            the message names it and the nearest value that is in range.
    """

    form: str = "segmentation"
    lengths: tuple[int, ...] = (14,)
    size: int = 300
    border: int = 22
    paddle_length: float = 5.0
    thickness: float = 2.0
    margin: float = 3.0
    continuity: float = 1.8
    contrasts: tuple[float, ...] = (1.0,)
    distractors: int = 15
    distractor_length: int = 0
    marker_radius: float = 5.0
    seed_distance: float = 27.0
    antialias: int = 2

    def __post_init__(self) -> None:
        for one in fields(self):
            _check_type(one.name, one.default, getattr(self, one.name))
        if self.form not in FORMS:
            raise PathfinderError(f"form: expected {' or '.join(FORMS)}, got {self.form!r}")
        for name, kind in _SEQUENCES.items():
            values = tuple(kind(value) for value in getattr(self, name))
            if not values:
                raise PathfinderError(f"{name}: expected at least one value, got none")
            object.__setattr__(self, name, values)
        self._check_ranges()
        self._check_room()

    def length(self, index: int) -> int:
        """Paddles of each contour of sample ``index``."""
        return self.lengths[index % len(self.lengths)]

    def length_of_distractors(self, length: int) -> int:
        """Paddles of each distractor beside contours of ``length`` paddles."""
        return self.distractor_length or max(length // 3, 1)

    @property
    def period(self) -> float:
        """Length of an edge of a contour, px."""
        return self.paddle_length + 2 * self.margin

    @property
    def clearance(self) -> float:
        """Least distance between the centre lines of two contours, px."""
        return self.margin + self.thickness

    @property
    def marker_clearance(self) -> float:
        """Least distance between a disc's centre and the centre line of another contour, px."""
        return self.marker_radius + self.margin + self.thickness / 2

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name, as JSON has it: sequences are lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PathfinderSettings:
        """The inverse of :meth:`as_dict`; settings that are absent have their defaults.

        Raises:
            PathfinderError: a key that is no setting, or a value as in the class.
        """
        known = [one.name for one in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise PathfinderError(
                f"unknown Pathfinder settings: {listed(unknown, most=5)}; "
                f"known ones: {', '.join(known)}"
            )
        return cls(**values)

    def _check_ranges(self) -> None:
        for length in self.lengths:
            _at_least("lengths", length, 2)
        if self.size > MAX_SIZE:
            raise _out_of_range("size", self.size, f"at most {MAX_SIZE}", MAX_SIZE)
        for name in ("border", "distractors", "distractor_length"):
            _at_least(name, getattr(self, name), 0)
        for name in ("paddle_length", "thickness", "margin", "marker_radius", "seed_distance"):
            value = getattr(self, name)
            if not 0 < value <= MAX_SIZE:
                raise PathfinderError(
                    f"{name}: expected a number above 0 and up to {MAX_SIZE}, got {value:g}"
                )
        if not 1 <= self.continuity <= MAX_CONTINUITY:
            nearest = MAX_CONTINUITY if self.continuity > 1 else 1
            raise _out_of_range(
                "continuity", self.continuity, f"from 1 to {MAX_CONTINUITY}", nearest
            )
        for contrast in self.contrasts:
            if not 0 < contrast <= 1:
                raise PathfinderError(f"contrasts: expected above 0 and up to 1, got {contrast:g}")
        _at_least("antialias", self.antialias, 1)
        most = min(MAX_ANTIALIAS, _MAX_DRAWN // max(self.size, 1))
        if self.antialias > most:
            expected = f"at most {most} for pictures of {self.size} px"
            raise _out_of_range("antialias", self.antialias, expected, most)

    def _check_room(self) -> None:
        thickness = self.thickness
        if self.antialias * thickness < 1:
            raise _out_of_range(
                "antialias",
                self.antialias,
                f"enough for a paddle {thickness:g} px thick to be drawn at least 1 px thick",
                math.ceil(1 / thickness),
            )
        if self.paddle_length < thickness:
            raise _out_of_range(
                "paddle_length", self.paddle_length, "at least the thickness", thickness
            )
        if self.marker_radius < thickness:
            raise _out_of_range(
                "marker_radius",
                self.marker_radius,
                "at least the paddles' thickness, or the disc could not be told from a paddle",
                thickness,
            )
        least = 2 * self.marker_radius + self.margin
        if self.seed_distance < least:
            raise _out_of_range(
                "seed_distance",
                self.seed_distance,
                "at least 2 * marker_radius + margin, so that discs keep apart",
                least,
            )
        smallest = math.ceil(2 * (self.border + 2 * self.seed_distance) + thickness)
        if smallest > MAX_SIZE:
            raise PathfinderError(
                f"seed_distance and border: {self.seed_distance:g} and {self.border} px need a "
                f"picture of {smallest} px; the largest has {MAX_SIZE}"
            )
        if self.size < smallest:
            raise _out_of_range(
                "size",
                self.size,
                f"room for a contour that begins 2 * seed_distance = {2 * self.seed_distance:g} px "
                f"from the border of {self.border} px on every side",
                smallest,
            )


def paper_settings(
    *lengths: int, form: str = "segmentation", contrasts: Iterable[float] = (1.0,)
) -> PathfinderSettings:
    """The settings of Linsley et al. (NeurIPS 2020), pictures of 300 x 300.

    Contours of 9, 14, 20 and 25 paddles are the paper's sets, 10 to 25 in turn its mixed test set.
    What was released of the settings of 20, 25 and the mixed set is their distractors' length, a
    third of the contours'; the rest is here as for 9 and 14.
    """
    return PathfinderSettings(form=form, lengths=lengths, contrasts=tuple(contrasts))


def half_scale_settings(*lengths: int, form: str = "segmentation") -> PathfinderSettings:
    """Pictures of 150 x 150, the models' input, drawn at that size: every length is halved."""
    return PathfinderSettings(
        form=form,
        lengths=lengths,
        size=150,
        border=11,
        paddle_length=2.5,
        thickness=1.0,
        margin=1.5,
        marker_radius=2.5,
        seed_distance=13.5,
        antialias=4,
    )


def small_128_settings(
    *, length: int = 14, margin: float = 3.0, form: str = "segmentation"
) -> PathfinderSettings:
    """The 128 x 128 variant that later work uses.

    Released are all but the paddles' length, 5 here as in the large pictures. The number of
    distractors is 35 divided by their length, rounded down: 8 for 14 paddles.
    """
    return PathfinderSettings(
        form=form,
        lengths=(length,),
        size=128,
        border=1,
        thickness=1.5,
        margin=margin,
        contrasts=(0.9,),
        distractors=35 // max(length // 3, 1),
        marker_radius=3.0,
        seed_distance=20.0,
    )


def small_32_settings(
    *, length: int = 6, distractors: int = 5, form: str = "segmentation"
) -> PathfinderSettings:
    """The 32 x 32 variant that later work uses; the numbers of paddles and distractors are ours."""
    return PathfinderSettings(
        form=form,
        lengths=(length,),
        size=32,
        border=1,
        paddle_length=2.0,
        thickness=0.5,
        margin=1.0,
        continuity=1.0,
        distractors=distractors,
        marker_radius=1.5,
        seed_distance=7.0,
        antialias=4,
    )


def _check_type(name: str, default: object, value: object) -> None:
    if name in _SEQUENCES:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise PathfinderError(f"{name}: expected a sequence of numbers, got {value!r}")
        for one in value:
            _check_type(f"{name}, an element", _SEQUENCES[name](), one)
        return
    expected: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if isinstance(value, bool) or not isinstance(value, expected):
        kind = {int: "a whole number", float: "a number", str: "a name"}[expected[-1]]
        raise PathfinderError(f"{name}: expected {kind}, got {value!r}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise _out_of_range(name, value, f"at least {least}", least)


def _out_of_range(name: str, value: object, expected: str, nearest: object) -> PathfinderError:
    return PathfinderError(
        f"{name}: expected {expected}; got {value}; the nearest possible value is {nearest}"
    )
