"""A pixel size is stated or it is not; what cannot be true is told, and not used."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.engine.slides.resolution import (
    Statement,
    from_description,
    from_ome,
    from_openslide,
    from_tiff_tags,
    ome_objective_power,
    resolve,
)
from microtome.storage.errors import BadResolution

OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="I:0"><Objective ID="O:0" NominalMagnification="{power}"/></Instrument>
<Image ID="Image:0" Name="macro"><Pixels SizeX="50" SizeY="40" PhysicalSizeX="9"
 PhysicalSizeY="9"/></Image>
<Image ID="Image:1" Name="slide"><Pixels SizeX="500" SizeY="400" {sizes}/></Image></OME>"""

possible = st.floats(0.01, 500)


def ome(sizes: str, power: str = "20") -> str:
    return OME.format(sizes=sizes, power=power)


@given(y=possible, skew=st.floats(-0.045, 0.045))
def test_what_can_be_true_is_taken_as_it_is(y, skew):
    found = resolve([Statement("here", (y, y * (1 + skew)))])
    assert found.mpp == (y, y * (1 + skew))
    assert found.source == "here"
    assert found.refused == ()


@pytest.mark.parametrize("bad", [0.0, -0.25, 1000.0, 25400.0, math.inf, math.nan])
def test_what_cannot_be_is_told_and_the_next_place_asked(bad):
    found = resolve([Statement("vendor", (bad, bad)), Statement("tags", (0.5, 0.5))])
    assert found.mpp == (0.5, 0.5)
    assert found.source == "tags"
    assert "vendor" in found.refused[0]
    assert resolve([Statement("vendor", (bad, bad))]).mpp is None
    assert resolve([Statement("vendor", (0.5, bad))]).mpp is None


def test_axes_that_contradict_each_other_end_the_search():
    found = resolve([Statement("vendor", (0.25, 0.27)), Statement("tags", (0.25, 0.25))])
    assert found.mpp is None
    assert "more than 5%" in found.refused[0]
    assert resolve([Statement("vendor", (0.25, 0.26))]).mpp == (0.25, 0.26)


def test_the_users_value_wins_over_any_statement():
    assert resolve([Statement("vendor", (0.5, 0.5))], 0.23).mpp == (0.23, 0.23)
    assert resolve([], 0.23).source == "--slide-mpp"
    with pytest.raises(BadResolution):
        resolve([Statement("vendor", (0.5, 0.5))], -1)


@pytest.mark.parametrize(
    ("x", "y", "unit", "mpp"),
    [
        (40_000, 40_000, 3, (0.25, 0.25)),  # per centimetre
        (50_800, 25_400, 2, (1.0, 0.5)),  # per inch
        (40_000, 40_000, 1, None),  # no unit
        (math.nan, math.nan, 2, None),  # no tag
    ],
)
def test_tiff_tags_are_pixels_per_unit_of_length(x, y, unit, mpp):
    statements = from_tiff_tags(x, y, unit)
    assert [s.mpp for s in statements] == ([] if mpp is None else [pytest.approx(mpp)])


@pytest.mark.parametrize(
    ("per_unit", "unit"), [(72, 2), (28.3464566, 3), (96, 2), (10, 3), (1, 2), (0, 2)]
)
def test_defaults_of_programs_are_no_pixel_size(per_unit, unit):
    found = resolve(from_tiff_tags(per_unit, per_unit, unit))
    assert found.mpp is None
    assert len(found.refused) == 1


@pytest.mark.parametrize(
    ("sizes", "mpp"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.25"', (0.25, 0.5)),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25"', (0.25, 0.25)),
        (
            'PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm" '  # noqa: ISC004
            'PhysicalSizeY="2500" PhysicalSizeYUnit="Å"',
            (0.25, 0.25),
        ),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"', None),
        ('PhysicalSizeX="0.5"', None),
        ("", None),
    ],
)
def test_ome_xml_is_read_for_the_image_of_that_size_with_its_units(sizes, mpp):
    statements = from_ome(ome(sizes), 400, 500)
    assert [s.mpp for s in statements] == ([] if mpp is None else [pytest.approx(mpp)])


def test_damaged_xml_states_nothing():
    assert from_ome("<OME", 400, 500) == []
    assert ome_objective_power("") is None
    assert ome_objective_power(ome("", "40")) == 40
    assert ome_objective_power(ome("", "nonsense")) is None


@pytest.mark.parametrize(
    ("text", "mpp"),
    [
        ("Aperio Image Library v11|AppMag = 20|MPP = 0.4990|Left = 25", 0.499),
        ("Aperio Image Library v11|AppMag = 20|MPP = 0,4990", 0.499),
        ("Aperio Image Library v11|AppMag = 20", None),
        ("ImageJ=1.53f\nunit=\\u00B5m\n", 0.25),
        ("ImageJ=1.53f\nunit=nm\n", 0.00025),
        ("ImageJ=1.53f\nimages=1\n", None),
        ("taken at 40x", None),
    ],
)
def test_descriptions_of_aperio_and_imagej_are_understood(text, mpp):
    statements = from_description(text, 4.0)
    assert [s.mpp for s in statements] == ([] if mpp is None else [pytest.approx((mpp, mpp))])


def test_libvips_keeps_what_openslide_said():
    text = "".join(
        f'<name>openslide.mpp-{a}</name><value type="VipsRefString">{v}</value>'
        for a, v in (("x", 0.26), ("y", 0.25))
    )
    assert from_description(text)[0].mpp == (0.25, 0.26)


def test_nominal_magnification_never_stands_in():
    properties = {"openslide.vendor": "aperio", "openslide.objective-power": "40"}
    assert from_openslide(properties) == []
    assert from_description("Aperio v1|AppMag = 40") == []


def test_openslide_with_one_axis_alone_is_not_completed():
    assert resolve(from_openslide({"openslide.mpp-x": "0.25"})).mpp is None
