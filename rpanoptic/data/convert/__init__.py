"""Converters between the COCO panoptic format and others, both ways."""

from rpanoptic.data.convert.write import (
    ConversionReport,
    Segment,
    SegmentedPicture,
    write_panoptic,
)

__all__ = ["ConversionReport", "Segment", "SegmentedPicture", "write_panoptic"]
