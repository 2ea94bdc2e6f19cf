"""Pictures with one label: datasets and what reads them. Importing this registers the datasets."""

from __future__ import annotations
