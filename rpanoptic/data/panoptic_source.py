"""Where the files of a panoptic dataset are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from detectron2.data.catalog import Metadata

from rpanoptic.errors import DatasetError

_ORDER = (
    "The three are, in this order: the folder of the pictures, the panoptic JSON, the folder of "
    "its PNGs."
)


@dataclass(frozen=True)
class PanopticSource:
    """A folder of pictures, a COCO panoptic JSON, and the folder of the PNGs that it names.

    Attributes:
        image_root: folder of the pictures; "images[].file_name" of the JSON is relative to it.
        panoptic_json: the annotations.
        panoptic_root: folder of the panoptic PNGs; "annotations[].file_name" is relative to it.
    """

    image_root: Path
    panoptic_json: Path
    panoptic_root: Path

    @classmethod
    def of(
        cls, image_root: str | Path, panoptic_json: str | Path, panoptic_root: str | Path
    ) -> PanopticSource:
        """The source at these paths, in which "~" and environment variables are replaced.

        Relative paths stay relative to the current folder; nothing is looked for.
        """
        paths = (image_root, panoptic_json, panoptic_root)
        return cls(*(Path(os.path.expandvars(path)).expanduser() for path in paths))

    def absolute(self) -> PanopticSource:
        """The same files, named so that a later change of the current folder does not matter."""
        return PanopticSource(
            self.image_root.absolute(), self.panoptic_json.absolute(), self.panoptic_root.absolute()
        )

    @classmethod
    def of_dataset(cls, name: str, metadata: Metadata) -> PanopticSource:
        """The source that a registered dataset's metadata names.

        Args:
            name: of the dataset, for the message.
            metadata: of the dataset.

        Raises:
            DatasetError: it names no such files, as that of a dataset that is not panoptic.
        """
        keys = ("image_root", "panoptic_json", "panoptic_root")
        paths = [metadata.get(key) for key in keys]
        missing = [key for key, path in zip(keys, paths, strict=True) if not path]
        if missing:
            raise DatasetError(
                f"dataset {name!r} is no panoptic dataset: its metadata lacks {', '.join(missing)}."
            )
        return cls.of(*(str(path) for path in paths))

    def check_exists(self) -> None:
        """Check that both folders and the file are there.

        Raises:
            DatasetError: one is not; the message names it and what it is for, and where something
                else is in its place, the order of the three.
        """
        for path, there, what in (
            (self.image_root, Path.is_dir, "folder of the pictures"),
            (self.panoptic_json, Path.is_file, "file of the panoptic annotations"),
            (self.panoptic_root, Path.is_dir, "folder of the panoptic PNGs"),
        ):
            try:
                if there(path):
                    continue
                if path.exists():
                    kind = "folder" if path.is_dir() else "file"
                    raise DatasetError(f"{path}: is a {kind}, not the {what}. {_ORDER}")
                raise DatasetError(f"{path}: no such {what}.")
            except OSError as error:
                raise DatasetError(f"{path}: no usable {what} ({error.strerror}).") from None
