"""Samples of Pathfinder, each a pure function of settings, seed and index.

Two contours of equally many paddles grow side by side, an edge each a round, from first ends that
are ``seed_distance`` apart; then short distractors grow wherever there is room. The task, the
sizes and the law of the turns are those of Linsley et al. (NeurIPS 2020). Where no setting was
released, or where it would let the answer show, this generator chooses:

- Directions are continuous, not those of whole degrees or pixels. Turns are drawn until one leads
  to free ground, which draws them with the published weights among the free ones.
- Gaps count as parts of a contour: contours never cross, not even between two paddles.
- At a dead end the latest edges of both contours are drawn anew, rather than everything, and an
  edge that heads for the border too late to turn counts as a dead end. Without this few contours
  of 25 paddles would come about.
- The places of discs are kept free at every end that might have one, whether it has or not.
- Every picture has all its distractors, each of its full length.
- Two discs look alike whether or not they are on one contour. In the classification form the
  contours set out in one direction, from places that have one distribution; a picture is taken only
  if the last end of one of them is as far from both first ends, within 5 per cent. One disc is
  there, and a coin says at which first end the other is.
- A pixel belongs to the target when half of it is covered, of thin paddles when a smaller part is;
  see :func:`rpanoptic.pathfinder.drawing.mask`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rpanoptic.pathfinder import drawing
from rpanoptic.pathfinder.limits import impossible
from rpanoptic.pathfinder.placement import Budget, NoRoomError, place
from rpanoptic.pathfinder.settings import PathfinderSettings

# Raise it whenever unchanged settings, seed and index would draw anything else.
GENERATOR_VERSION = 1


@dataclass(frozen=True)
class PathfinderSample:
    """A picture, its answer, and its geometry; coordinates are (x, y) in px.

    Attributes:
        image: ``(H, W)`` uint8.
        target: ``(H, W)`` uint8, 0 or 1: the marked contour with its disc. In the classification
            form the contours that have discs, with both discs.
        label: 1 if all discs are on one contour; always so in the segmentation form.
        contours: ends of the paddles of the two contours, ``(L, 2, 2)`` float64 each, first paddle
            first.
        distractors: the same of each distractor, ``(D, 2, 2)``.
        marked: which contour has the disc; in the classification form, the first disc.
        markers: centres of the discs, ``(1, 2)`` or ``(2, 2)`` float64. The first is a contour's
            first end, the second a contour's last end.
    """

    image: np.ndarray
    target: np.ndarray
    label: int
    contours: tuple[np.ndarray, np.ndarray]
    distractors: tuple[np.ndarray, ...]
    marked: int
    markers: np.ndarray


def generate(settings: PathfinderSettings, seed: int, index: int) -> PathfinderSample:
    """Draw a sample.

    Args:
        settings: what it is made of.
        seed: non-negative, of the set.
        index: non-negative, of the sample in the set. Its contours have
            ``settings.length(index)`` paddles.

    Returns:
        the same sample for the same arguments, whatever was drawn before.

    Raises:
        PathfinderError: no room was found in a bounded number of attempts; the message names the
            setting at fault and a value with which room is found.
    """
    rng = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence((seed, index, GENERATOR_VERSION)))
    )
    length = settings.length(index)
    try:
        placement = place(settings, length, rng, Budget())
    except NoRoomError as error:
        raise impossible(settings, length, error) from error
    paddles = np.concatenate((*placement.contours, *placement.distractors))
    brightness = rng.choice(settings.contrasts, size=len(paddles))
    marked, markers = placement.marked, placement.markers
    contours = (placement.contours[marked],) if placement.label else placement.contours
    return PathfinderSample(
        image=drawing.draw(settings, paddles, brightness, markers),
        target=drawing.mask(settings, contours, markers),
        label=placement.label,
        contours=placement.contours,
        distractors=placement.distractors,
        marked=marked,
        markers=markers,
    )
