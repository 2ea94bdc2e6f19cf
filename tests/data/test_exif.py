import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from rpanoptic.data.exif import UPRIGHT, exif_orientation, turned_size


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_the_size_is_that_which_detectron2_reads(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (5, 3)).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as image:
        assert turned_size(image) == read_image(tmp_path / name, "RGB").shape[1::-1]
        if name != "a.tif":  # which Pillow turns itself, by half
            assert turned_size(image) == ((3, 5) if orientation in (5, 6, 7, 8) else (5, 3))
        assert exif_orientation(image) == (orientation if 2 <= orientation <= 8 else UPRIGHT)


def test_a_damaged_exif_turns_nothing(tmp_path):
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=b"Exif\0\0no TIFF")
    with Image.open(tmp_path / "a.jpg") as image:
        assert (exif_orientation(image), turned_size(image)) == (UPRIGHT, (5, 3))
