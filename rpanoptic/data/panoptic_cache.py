"""What is derived from a panoptic dataset: semantic PNGs, instance annotations, its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rpanoptic.data.coco_panoptic import prepare_coco_panoptic
from rpanoptic.data.panoptic_classes import ClassTable
from rpanoptic.data.panoptic_json import load_panoptic_json
from rpanoptic.data.panoptic_source import PanopticSource


@dataclass(frozen=True)
class PanopticCache:
    """The folder of the files that are derived from a source.

    Attributes:
        source: the files of the dataset.
        folder: of the derived files.
    """

    source: PanopticSource
    folder: Path

    @classmethod
    def of(cls, source: PanopticSource, cache: str | Path | None = None) -> PanopticCache:
        """The cache of a source: a folder named for its JSON in ``cache``, or beside the JSON."""
        parent = source.panoptic_json.parent if cache is None else Path(cache).expanduser()
        return cls(source, parent.absolute() / f"{source.panoptic_json.stem}.rpanoptic")

    @property
    def sem_seg_root(self) -> Path:
        """Folder of the semantic PNGs, named as the panoptic PNGs."""
        return self.folder / "semantic"

    @property
    def instances_json(self) -> Path:
        """File of the instance annotations, things alone."""
        return self.folder / "instances.json"

    def classes(self) -> ClassTable:
        """The classes of the dataset."""
        content = load_panoptic_json(self.source.panoptic_json)
        return ClassTable.from_categories(content["categories"])

    def build(self) -> None:
        """Derive the files, unless they are there."""
        prepare_coco_panoptic(
            self.source.panoptic_json,
            self.source.panoptic_root,
            self.sem_seg_root,
            self.instances_json,
        )
