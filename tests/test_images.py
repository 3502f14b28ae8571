"""Pictures from strangers."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import shapjax as sj
from shapjax.evaluate.datasets.record import read_png
from shapjax.games.players import label_map

ramp = np.linspace(0, 255, 12 * 8).astype(np.uint8).reshape(8, 12)
rgb = np.stack([ramp, ramp[::-1], 255 - ramp], axis=-1)


def png_header_only(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def saved(image, path, **options):
    image.save(path, **options)
    return sj.load_image(path)


def test_modes_become_rgb(tmp_path):
    grey = saved(Image.fromarray(ramp), tmp_path / "grey.png")
    np.testing.assert_array_equal(np.asarray(grey), np.stack([ramp] * 3, -1))
    deep = saved(Image.fromarray(ramp.astype(np.uint16) * 257), tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(deep), np.stack([ramp] * 3, -1))
    real = saved(Image.fromarray((ramp / 255).astype(np.float32)), tmp_path / "real.tiff")
    np.testing.assert_array_equal(np.asarray(real), np.stack([ramp] * 3, -1))
    palette = saved(Image.fromarray(rgb).quantize(32), tmp_path / "palette.png")
    assert palette.mode == "RGB"
    cmyk = saved(Image.fromarray(rgb).convert("CMYK"), tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.asarray(cmyk).astype(int) - rgb).mean() < 20
    one_bit = saved(Image.fromarray(ramp > 128), tmp_path / "bit.png")
    assert set(np.unique(np.asarray(one_bit))) == {0, 255}


def test_transparency_lies_over_white(tmp_path):
    alpha = np.zeros_like(ramp)
    alpha[:, 6:] = 255
    image = saved(Image.fromarray(np.dstack([rgb, alpha])), tmp_path / "rgba.png")
    found = np.asarray(image)
    assert np.all(found[:, :6] == 255)
    np.testing.assert_array_equal(found[:, 6:], rgb[:, 6:])


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    image = saved(Image.fromarray(rgb), tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(rgb, -1))


def test_arrays_and_images(tmp_path):
    for array in (rgb, (rgb / 255).astype(np.float32), rgb.astype(np.uint16) * 257):
        np.testing.assert_array_equal(np.asarray(sj.load_image(array)), rgb)
    assert sj.load_image(ramp[..., None]).size == (12, 8)
    assert sj.load_image(Image.fromarray(ramp)).mode == "RGB"
    assert sj.load_image(np.zeros((1, 1, 3), np.uint8)).size == (1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((3, 4, 5), np.uint8),
        np.zeros(7, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.full((4, 4), np.nan),
        np.full((4, 4), 1.5),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), complex),
    ],
)
def test_wrong_arrays_are_refused(bad):
    with pytest.raises(sj.ImageError, match=r"expected|must lie"):
        sj.load_image(bad)


def test_wrong_files_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        buffer, "JPEG"
    )
    files = {
        "absent.png": None,
        "empty.png": b"",
        "text.png": b"hello, this is not a picture",
        "cut.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "cut.png": png_header_only(50, 50),
        "bomb.png": png_header_only(20_000, 10_000),
        "bigger_bomb.png": png_header_only(2**31 - 1, 2**31 - 1),
        "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(sj.ImageError) as caught:
            sj.load_image(tmp_path / name)
        assert name in str(caught.value)
        assert str(caught.value).count("\n") == 0
    with pytest.raises(sj.ImageError, match="is a folder"):
        sj.load_image(tmp_path)


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (rgb, "a ndarray"),
        ("picture.png", "a str"),
        (Image.fromarray(ramp), "a picture of mode L"),
    ],
)
def test_networks_take_what_load_image_gives(given, came):
    model = sj.backbones.load("shapjax_tiny")
    for call in (model.preprocess, model.resize):
        with pytest.raises(sj.ImageError, match=rf"got {came}, .*shapjax\.load_image"):
            call(given)
    assert model.preprocess(sj.load_image(rgb)).ndim == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [10_001, 13_000, 2**31 - 1])
def test_masks_and_label_maps_are_refused_by_their_size(tmp_path, side):
    """Above our own limit, above Pillow's warning and above what it opens."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header_only(side, side))
    with pytest.raises(sj.ImageError, match=r"bomb\.png has .* at most 100 megapixels"):
        read_png(path)
    with pytest.raises(sj.ImageError, match=r"bomb\.png has .* at most 16 megapixels"):
        label_map(path, np.zeros((8, 8, 3), np.float32), (2, 2))
