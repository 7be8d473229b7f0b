"""OME-XML 2016-06: what an image is, for the tools that read it there and nowhere else.

Bio-Formats' reader of OME-Zarr takes pixel size, channel names and colours from this document
alone, and QuPath takes an image for RGB only where it has three channels of 8 bits so named and
coloured. Schema: https://www.openmicroscopy.org/Schemas/OME/2016-06/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"

_CHANNELS = {"Red": 0xFF0000FF, "Green": 0x00FF00FF, "Blue": 0x0000FFFF}
"""Colours as red, green, blue, alpha."""


@dataclass(frozen=True)
class OmeImage:
    """An RGB image of 8 bits.

    Attributes
    ----------
    name
        Shown to the user.
    height_px, width_px
        Of its finest level.
    mpp
        (y, x) micrometres per pixel, or None where unknown.
    objective_power
        Nominal magnification, or None.
    """

    name: str
    height_px: int
    width_px: int
    mpp: tuple[float, float] | None = None
    objective_power: float | None = None


def ome_xml(images: Sequence[OmeImage]) -> str:
    """The document that describes some images, in their order.

    Each has three channels of one sample; the pixels themselves lie elsewhere (``MetadataOnly``).
    """
    ElementTree.register_namespace("", NAMESPACE)
    schema = f"{NAMESPACE} {NAMESPACE}/ome.xsd"
    location = "{http://www.w3.org/2001/XMLSchema-instance}schemaLocation"
    root = ElementTree.Element(_tag("OME"), {location: schema})
    for number, image in enumerate(images):
        if image.objective_power is not None:
            _add_instrument(root, number, image.objective_power)
    for number, image in enumerate(images):
        _add_image(root, number, image)
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False)


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, _tag(name), attributes)


def _add_instrument(root: ElementTree.Element, number: int, power: float) -> None:
    instrument = _add(root, "Instrument", ID=f"Instrument:{number}")
    _add(instrument, "Objective", ID=f"Objective:{number}:0", NominalMagnification=repr(power))


def _add_image(root: ElementTree.Element, number: int, image: OmeImage) -> None:
    node = _add(root, "Image", ID=f"Image:{number}", Name=image.name)
    if image.objective_power is not None:
        _add(node, "InstrumentRef", ID=f"Instrument:{number}")
        _add(node, "ObjectiveSettings", ID=f"Objective:{number}:0")
    size = {}
    if image.mpp is not None:
        # Python writes the shortest number that is the same when it is read.
        size = {
            "PhysicalSizeX": repr(image.mpp[1]), "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": repr(image.mpp[0]), "PhysicalSizeYUnit": "µm",
        }  # fmt: skip
    pixels = _add(
        node,
        "Pixels",
        ID=f"Pixels:{number}",
        DimensionOrder="XYCZT",
        Type="uint8",
        SignificantBits="8",
        Interleaved="false",
        BigEndian="false",
        SizeX=str(image.width_px),
        SizeY=str(image.height_px),
        SizeC=str(len(_CHANNELS)),
        SizeZ="1",
        SizeT="1",
        **size,
    )
    for place, (name, colour) in enumerate(_CHANNELS.items()):
        identity = f"Channel:{number}:{place}"
        signed = colour - 2**32 if colour >= 2**31 else colour
        _add(pixels, "Channel", ID=identity, Name=name, Color=str(signed), SamplesPerPixel="1")
    _add(pixels, "MetadataOnly")
