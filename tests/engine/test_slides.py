"""Slides are read exactly, by every reader."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from slide_files import BOXES, DICOM, DICOM_PYRAMID, KIDNEY, OME, SVS, whole

from microtome.engine.slides import open_slide
from microtome.engine.slides.base import Bounds, Slide, downsample
from microtome.engine.slides.openslide_reader import _bounds, _over_white
from microtome.engine.slides.tifffile_reader import TiffSlide
from microtome.storage.errors import (
    UnreadableFile,
)

OPENINGS = [
    ("tifffile", SVS),
    ("openslide", SVS),
    ("tifffile", OME),
    ("openslide", DICOM),
    ("openslide", DICOM_PYRAMID),
    ("tifffile", BOXES),
    ("openslide", BOXES),
    ("tifffile", KIDNEY),
    ("tifffile", "slides/synthetic/cells.ome.tif"),
]


@pytest.fixture(params=OPENINGS, ids=lambda p: f"{p[0]}-{Path(p[1]).name}")
def slide(request: pytest.FixtureRequest, shared_data: Path):
    reader, file = request.param
    with open_slide(shared_data / file, reader=reader) as opened:
        yield opened


def by_pillow(path: Path, frame: int = 0) -> np.ndarray:
    with Image.open(path) as image:
        image.seek(frame)
        return np.asarray(image.convert("RGB"))


class TestEveryReader:
    def test_keeps_the_protocol(self, slide):
        assert isinstance(slide, Slide)
        levels = slide.info.levels
        assert (levels[0].downsample_y, levels[0].downsample_x) == (1.0, 1.0)
        assert all(a.downsample_y < b.downsample_y for a, b in pairwise(levels))
        assert (slide.info.mpp is None) == (slide.info.mpp_source is None)

    def test_reads_any_rectangle_of_level_0_as_the_same_pixels(self, slide):
        everything, rng = whole(slide), np.random.default_rng(0)
        assert everything.dtype == np.uint8
        for _ in range(12):
            y, x = (int(rng.integers(0, n)) for n in everything.shape[:2])
            h, w = (
                int(rng.integers(1, n - at + 1))
                for n, at in zip(everything.shape[:2], (y, x), strict=True)
            )
            np.testing.assert_array_equal(
                slide.read(0, y, x, h, w), everything[y : y + h, x : x + w]
            )

    def test_gives_pixels_that_the_caller_may_change(self, slide):
        first = slide.read(0, 0, 0, 16, 16)
        before = first.copy()
        first[...] = 7
        np.testing.assert_array_equal(slide.read(0, 0, 0, 16, 16), before)

    @pytest.mark.parametrize(
        "part", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 10**6, 1), (0, 0, 1, 10**6), (0, 0, 0, 4)]
    )
    def test_refuses_a_rectangle_that_leaves_the_level(self, slide, part):
        with pytest.raises(ValueError, match="leaves level 0"):
            slide.read(0, *part)

    def test_refuses_a_level_that_is_not_there(self, slide):
        for level in (-1, len(slide.info.levels)):
            with pytest.raises(ValueError, match="no level"):
                slide.read(level, 0, 0, 1, 1)

    def test_has_the_associated_images_that_it_lists_and_no_other(self, slide):
        for name in slide.info.associated:
            image = slide.associated_image(name)
            assert image.dtype == np.uint8
            assert image.ndim == 3
        with pytest.raises(KeyError):
            slide.associated_image("portrait")


class TestPixelsAgainstOtherPrograms:
    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_tile_5_5_is_what_slideio_decoded(self, shared_data, reader):
        reference = by_pillow(
            shared_data / "slides/reference/CMU-1-Small-Region-page-0-tile_5-5.bmp"
        )
        with open_slide(shared_data / SVS, reader=reader) as slide:
            np.testing.assert_array_equal(slide.read(0, 1200, 1200, 240, 240), reference)

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_the_label_is_what_slideio_decoded(self, shared_data, reader):
        reference = by_pillow(shared_data / "slides/reference/CMU-1-Small-Region-page-2.bmp")
        with open_slide(shared_data / SVS, reader=reader) as slide:
            np.testing.assert_array_equal(slide.associated_image("label"), reference)

    @pytest.mark.parametrize("file", [SVS, OME])
    def test_both_readers_give_level_0_without_any_difference(self, shared_data, file):
        with (
            open_slide(shared_data / file, reader="tifffile") as ours,
            open_slide(shared_data / file, reader="openslide") as theirs,
        ):
            np.testing.assert_array_equal(whole(ours), whole(theirs))

    def test_both_readers_give_the_same_associated_images(self, shared_data):
        with (
            open_slide(shared_data / SVS, reader="tifffile") as ours,
            open_slide(shared_data / SVS, reader="openslide") as theirs,
        ):
            assert set(ours.info.associated) == {"label", "macro", "thumbnail"}
            for name in ours.info.associated:
                np.testing.assert_array_equal(
                    ours.associated_image(name), theirs.associated_image(name)
                )

    @pytest.mark.parametrize("entry", ["", "level0.dcm", "label.dcm"])
    def test_dicom_by_folder_or_by_any_file_equals_the_svs_it_was_made_of(self, shared_data, entry):
        with (
            open_slide(shared_data / DICOM / entry) as dicom,
            open_slide(shared_data / SVS) as svs,
        ):
            assert dicom.info.vendor == "dicom"
            assert dicom.info.mpp == pytest.approx((0.499, 0.499))
            np.testing.assert_array_equal(whole(dicom), whole(svs))

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_every_level_of_the_boxes_is_what_libtiff_decodes(self, shared_data, reader):
        with open_slide(shared_data / BOXES, reader=reader) as slide:
            assert len(slide.info.levels) == 4
            for level in range(4):
                np.testing.assert_array_equal(
                    whole(slide, level), by_pillow(shared_data / BOXES, level)
                )

    @pytest.mark.parametrize(
        "file", [KIDNEY, "slides/synthetic/cells.ome.tif", "slides/synthetic/small.svs"]
    )
    def test_strips_and_colour_planes_are_what_libtiff_decodes(self, shared_data, file):
        with open_slide(shared_data / file) as slide:
            assert slide.info.backend == "tifffile"
            np.testing.assert_array_equal(whole(slide), by_pillow(shared_data / file))

    def test_ome_tiff_has_its_five_sub_ifd_levels_and_they_show_the_same_tissue(self, shared_data):
        with open_slide(shared_data / OME) as slide:
            base, levels = whole(slide).astype(float), slide.info.levels
            assert [(level.height_px, level.width_px) for level in levels] == [
                (2967, 2220), (1483, 1110), (741, 555), (370, 277), (185, 138),
            ]  # fmt: skip
            assert [level.downsample_y for level in levels] == [1, 2, 4, 8, 16]
            for n, level in enumerate(levels[1:], 1):
                k, h, w = 2**n, level.height_px, level.width_px
                mean = base[: h * k, : w * k].reshape(h, k, w, k, 3).mean((1, 3))
                # JPEG quality 90, each level from the one before it.
                assert np.abs(whole(slide, n) - mean).mean() < 2


class TestVendorLevels:
    def test_a_level_of_uneven_downsample_is_at_most_half_a_level_0_pixel_off(self, shared_data):
        with open_slide(shared_data / DICOM_PYRAMID) as slide:
            for level in range(1, 5):
                picture = whole(slide, level).astype(int)
                y, x = picture.shape[0] // 2, picture.shape[1] // 2 + 3
                part = slide.read(level, y, x, 32, 32)
                near = np.stack(
                    [
                        picture[y + dy : y + dy + 32, x + dx : x + dx + 32]
                        for dy in (-1, 0, 1)
                        for dx in (-1, 0, 1)
                    ]
                )
                shift = 0.5 / slide.info.levels[level].downsample_y
                reach = 2 * shift * (near.max(0) - near.min(0)) + 1
                assert (np.abs(part - picture[y : y + 32, x : x + 32]) <= reach).all()

    def test_aperio_levels_leave_out_thumbnail_label_and_macro(self, shared_data, tmp_path):
        path = tmp_path / "pyramid.svs"
        with open_slide(shared_data / SVS) as slide:
            tissue = slide.read(0, 300, 300, 1501, 1100)
        about = "Aperio Image Library v11\n1100x1501 (240x240)|AppMag = 40|MPP = 0.2500"
        with tifffile.TiffWriter(path) as tif:
            tiled = {
                "tile": (240, 240),
                "photometric": "rgb",
                "compression": "zlib",
                "metadata": None,
            }
            plain = {"photometric": "rgb", "metadata": None}
            tif.write(tissue, description=about, **tiled)
            tif.write(tissue[::8, ::8], description=about, **plain)
            half = tissue[:1500].reshape(750, 2, 550, 2, 3).mean((1, 3)).astype(np.uint8)
            tif.write(half, description=about, **tiled)
            tif.write(tissue[:99, :77], description="Aperio\nlabel 77x99", subfiletype=1, **plain)
            tif.write(tissue[:50, :160], description="Aperio\nmacro 160x50", subfiletype=9, **plain)
        for reader in ("tifffile", "openslide"):
            with open_slide(path, reader=reader) as slide:
                shapes = [(level.height_px, level.width_px) for level in slide.info.levels]
                assert shapes == [(1501, 1100), (750, 550)]
                assert slide.info.levels[1].downsample_y == 2
                assert set(slide.info.associated) == {"label", "macro", "thumbnail"}
                assert slide.info.mpp == (0.25, 0.25)
                assert slide.info.objective_power == 40
                np.testing.assert_array_equal(whole(slide), tissue)
        with open_slide(path) as slide:
            np.testing.assert_array_equal(whole(slide, 1), half)
            np.testing.assert_array_equal(slide.associated_image("label"), tissue[:99, :77])
            assert slide.info.properties["aperio.AppMag"] == "40"

    @given(
        base=st.tuples(st.integers(500, 10**5), st.integers(500, 10**5)),
        n=st.integers(2, 64),
        up=st.booleans(),
    )
    def test_the_whole_factor_that_a_level_was_made_by_is_found(self, base, n, up):
        level = tuple(-(-b // n) if up else b // n for b in base)
        found = downsample(base, level)
        if min(level) > 2 * n:
            assert found == (n, n)
        assert all(abs(f * s - b) < f + 1e-6 for f, s, b in zip(found, level, base, strict=True))

    def test_a_level_that_no_whole_factor_explains_keeps_its_ratio(self):
        assert downsample((1000, 800), (400, 320)) == (2.5, 2.5)
        assert downsample((99_999, 80_000), (25_000, 20_000)) == (4.0, 4.0)
        assert downsample((99_999, 80_000), (25_100, 20_000)) == (99_999 / 25_100, 4.0)


class TestBounds:
    def stated(self, y: int, x: int, height: int, width: int) -> dict[str, str]:
        sides = {"y": y, "x": x, "height": height, "width": width}
        return {f"openslide.bounds-{side}": str(value) for side, value in sides.items()}

    def test_are_kept_in_level_0_pixels_of_the_whole_image(self):
        assert _bounds(self.stated(10, 20, 30, 40), 100, 100) == (Bounds(10, 20, 30, 40), ())
        assert _bounds({}, 100, 100) == (None, ())

    def test_that_leave_the_image_are_cut_and_told(self):
        bounds, notes = _bounds(self.stated(-5, 90, 30, 40), 100, 100)
        assert bounds == Bounds(0, 90, 25, 10)
        assert len(notes) == 1

    def test_that_lie_outside_are_not_used_and_told(self):
        bounds, notes = _bounds(self.stated(200, 0, 30, 40), 100, 100)
        assert bounds is None
        assert len(notes) == 1


class TestTransparency:
    @given(alpha=st.integers(0, 255), share=st.floats(0, 1))
    def test_white_shows_through_exactly(self, alpha, share):
        premultiplied = int(share * alpha)
        straight = 255 * premultiplied // alpha if alpha else 0
        pixel = np.array([[[straight, straight, straight, alpha]]], np.uint8)
        assert _over_white(pixel)[0, 0].tolist() == [premultiplied + 255 - alpha] * 3

    @pytest.mark.parametrize("reader", ["tifffile", "openslide"])
    def test_a_tile_that_was_never_written_is_white(self, tmp_path, reader):
        path = tmp_path / "sparse.tif"
        pixels = np.full((256, 256, 3), 90, np.uint8)
        tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="zlib")
        with tifffile.TiffFile(path, mode="r+") as tif:
            counts = tif.pages.first.tags[325]
            counts.overwrite((counts.value[0], 0, *counts.value[2:]))
        with open_slide(path, reader=reader) as slide:
            seen = whole(slide)
            if reader == "tifffile":
                assert "1 of 4 tiles" in slide.info.notes[0]
        pixels[:128, 128:] = 255
        np.testing.assert_array_equal(seen, pixels)


class TestTiff:
    @pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "jpeg2000", "webp"])
    @pytest.mark.parametrize("layout", ["tiles", "strips", "planes"])
    def test_lossless_pixels_come_back_whatever_they_are_stored_as(
        self, tmp_path, compression, layout
    ):
        pixels = np.random.default_rng(1).integers(0, 256, (210, 333, 3), np.uint8)
        path = tmp_path / "lossless.tif"
        how = {
            "tiles": {"tile": (64, 96)},
            "strips": {"rowsperstrip": 17},
            "planes": {"tile": (64, 96), "planarconfig": "separate"},
        }[layout]
        lossless = {"webp": {"level": -1}, "jpeg2000": {"level": 0}}.get(compression)
        if compression == "webp" and layout == "planes":
            pytest.skip("WebP has no single planes")
        stored = pixels.transpose(2, 0, 1) if layout == "planes" else pixels
        tifffile.imwrite(
            path, stored, photometric="rgb", compression=compression,
            compressionargs=lossless, bigtiff=layout == "strips",
            byteorder=">" if layout == "tiles" else "<", metadata=None, **how,
        )  # fmt: skip
        with open_slide(path, reader="tifffile") as slide:
            np.testing.assert_array_equal(whole(slide), pixels)
            np.testing.assert_array_equal(slide.read(0, 60, 90, 70, 110), pixels[60:130, 90:200])

    def test_each_tile_is_decoded_once_when_read_row_by_row(self, shared_data, monkeypatch):
        decoded = []
        plainly = TiffSlide._decode

        def counting(self, plane, index):
            decoded.append(index)
            return plainly(self, plane, index)

        monkeypatch.setattr(TiffSlide, "_decode", counting)
        with open_slide(shared_data / SVS) as slide:
            for y in range(0, 2967, 224):
                for x in range(0, 2220, 224):
                    slide.read(0, y, x, min(224, 2967 - y), min(224, 2220 - x))
        assert sorted(decoded) == list(range(130))

    @pytest.mark.parametrize("file", [SVS, OME, BOXES])
    def test_a_whole_tile_is_not_kept_and_belongs_to_who_read_it(self, shared_data, file):
        with TiffSlide(shared_data / file) as slide, open_slide(shared_data / file) as other:
            level = slide.info.levels[0]
            tall, wide = level.tile_px or (level.height_px, level.width_px)
            last_y, last_x = (
                (level.height_px - 1) // tall * tall,
                (level.width_px - 1) // wide * wide,
            )
            for y, x in [(0, 0), (last_y, last_x)]:
                part = (0, y, x, min(tall, level.height_px - y), min(wide, level.width_px - x))
                truth = whole(other)[y : y + part[3], x : x + part[4]]
                for _ in range(2):
                    tile = slide.read(*part)
                    np.testing.assert_array_equal(tile, truth)
                    tile[...] = 7
                    assert slide._tiles.held_bytes == 0
            slide.read(0, 0, 0, tall // 2, wide // 2)
            kept = slide._tiles.held_bytes
            assert kept > 0
            slide.read(0, 0, 0, min(tall, level.height_px), min(wide, level.width_px))[...] = 7
            np.testing.assert_array_equal(slide.read(0, 0, 0, 9, 9), whole(other)[:9, :9])
            assert slide._tiles.held_bytes == kept

    def test_the_cache_stays_within_its_bound(self, shared_data):
        limit = 5 * 240 * 240 * 3
        with TiffSlide(shared_data / SVS, cache_bytes=limit) as slide:
            for y in range(0, 2400, 240):
                slide.read(0, y, 0, 240, 2220)
                assert 0 < slide._tiles.held_bytes <= limit

    def test_of_a_large_part_only_the_tiles_at_its_border_are_kept(self, shared_data):
        with TiffSlide(shared_data / SVS) as slide:
            whole = slide.read(0, 0, 0, 2967, 2220)
            assert slide._tiles.held_bytes == 0
            part = slide.read(0, 100, 240, 2700, 1440)
            np.testing.assert_array_equal(part, whole[100:2800, 240:1680])
            # Cut by the upper and the lower edge: two rows of six.
            assert slide._tiles.held_bytes == 12 * 240 * 240 * 3

    def test_of_several_images_the_largest_is_the_slide(self, tmp_path):
        path = tmp_path / "two.ome.tif"
        small, large = np.zeros((64, 64, 3), np.uint8), np.full((300, 200, 3), 9, np.uint8)
        with tifffile.TiffWriter(path, ome=True) as tif:
            tif.write(small, photometric="rgb", metadata={"Name": "overview"})
            tif.write(large, photometric="rgb", metadata={"Name": "label-free tissue"})
            tif.write(small + 5, photometric="rgb", metadata={"Name": "macro image"})
        with open_slide(path) as slide:
            assert (slide.info.height_px, slide.info.width_px) == (300, 200)
            np.testing.assert_array_equal(slide.associated_image("macro"), small + 5)
            assert "2 images" in slide.info.notes[0]

    @pytest.mark.parametrize(
        ("pixels", "options", "why"),
        [
            (np.zeros((64, 64, 3), np.uint16), {"photometric": "rgb"}, "of 16 bits"),
            (np.zeros((64, 64, 4), np.uint8), {"photometric": "rgb"}, "4 samples"),
            (np.zeros((5, 64, 64), np.uint8), {"photometric": "minisblack"}, "5 images"),
            (np.zeros((64, 64), np.uint8), {"photometric": "miniswhite"}, "inverted grey"),
            (
                np.zeros((64, 64), np.uint8),
                {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
                "numbers of colours",
            ),
            (np.zeros((64, 64), np.complex64), {}, "64 bits"),
            (
                np.zeros((64, 64, 3), np.uint8),
                {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]},
                "turned",
            ),
        ],
    )  # fmt: skip
    def test_what_is_neither_upright_rgb_nor_channels_is_refused(
        self, tmp_path, pixels, options, why
    ):
        path = tmp_path / "other.tif"
        tifffile.imwrite(path, pixels, tile=(32, 32), **options)
        with pytest.raises(UnreadableFile, match=why):
            open_slide(path)
