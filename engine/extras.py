"""What is kept of a slide beside its pixels, where it is asked for: pictures and properties.

Labels show names and accession numbers, and so do many properties. So neither is kept unasked,
and of the properties only those that are known to be harmless: a list of what is allowed, since
vendors may put a patient into any field that is not on it. The rest is kept with ``patient_data``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .slides import Slide
from .slides.base import Pixels

_TIFF = """
    NewSubfileType ImageWidth ImageLength ImageDepth BitsPerSample Compression
    PhotometricInterpretation SamplesPerPixel PlanarConfiguration TileWidth TileLength RowsPerStrip
    YCbCrSubSampling Orientation XResolution YResolution ResolutionUnit XPosition YPosition
    SampleFormat Predictor Make Model Software
"""
_APERIO = """
    AppMag MPP StripeWidth Left Top LineCameraSkew LineAreaXOffset LineAreaYOffset OriginalWidth
    OriginalHeight Originalheight Filtered Gamma DisplayColor SessionMode
"""
_OPENSLIDE = """
    vendor mpp-x mpp-y objective-power level-count bounds-x bounds-y bounds-width bounds-height
    background-color icc-size
"""
_DICOM = """
    SOPClassUID MediaStorageSOPClassUID TransferSyntaxUID Modality Manufacturer
    ManufacturerModelName SoftwareVersions ImplementationVersionName ImageType Rows Columns
    NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration BitsAllocated
    BitsStored HighBit PixelRepresentation LossyImageCompression LossyImageCompressionMethod
    LossyImageCompressionRatio BurnedInAnnotation DimensionOrganizationType
    TotalPixelMatrixColumns TotalPixelMatrixRows TotalPixelMatrixFocalPlanes
    TotalPixelMatrixOriginSequence XOffsetInSlideCoordinateSystem YOffsetInSlideCoordinateSystem
    ImageOrientationSlide ImagedVolumeDepth ImagedVolumeHeight ImagedVolumeWidth
    VolumetricProperties ExtendedDepthOfField FocusMethod PositionReferenceIndicator
    SpecimenLabelInImage SharedFunctionalGroupsSequence PixelMeasuresSequence PixelSpacing
    SliceThickness SpacingBetweenSlices NumberOfOpticalPaths OpticalPathSequence
    OpticalPathIdentifier IlluminationTypeCodeSequence IlluminationColorCodeSequence
    IlluminationWaveLength ObjectiveLensPower ObjectiveLensNumericalAperture CondenserLensPower
    LensesCodeSequence ColorSpace ContainerTypeCodeSequence SpecimenDescriptionSequence
    SpecimenPreparationSequence SpecimenPreparationStepContentItemSequence
    PrimaryAnatomicStructureSequence SpecimenTypeCodeSequence ConceptNameCodeSequence
    ConceptCodeSequence ValueType CodeValue CodeMeaning CodingSchemeDesignator
"""
_ALLOWED = {
    "tiff": frozenset(_TIFF.split()),
    "aperio": frozenset(_APERIO.split()) | {"Focus Offset", "Exposure Time", "Exposure Scale"},
    "openslide": frozenset(_OPENSLIDE.split()),
    "dicom": frozenset(_DICOM.split()),
}
_LEVEL = re.compile(r"level\[\d+\]\.(height|width|downsample|tile-height|tile-width)")
_ITEM = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Extras:
    """What to keep.

    Attributes
    ----------
    associated
        Label, macro, thumbnail and what else the file has. A label usually names a patient.
    properties
        The vendor's, or DICOM's, properties that cannot name a person.
    patient_data
        With ``properties``: all of them.
    """

    associated: bool = False
    properties: bool = False
    patient_data: bool = False

    def __post_init__(self) -> None:
        if self.patient_data and not self.properties:
            raise ValueError("patient data are properties: ask for those")

    def key(self) -> dict[str, Any]:
        """What they add to a product's key; nothing where nothing is asked for."""
        asked: dict[str, Any] = {"associated": True} if self.associated else {}
        if self.properties:
            asked["properties"] = "all" if self.patient_data else "harmless"
        return asked

    def images(self, slide: Slide) -> dict[str, Pixels]:
        """The pictures to keep, uint8 [h, w, 3] by name."""
        if not self.associated:
            return {}
        return {name: slide.associated_image(name) for name in slide.info.associated}

    def about(self, slide: Slide) -> dict[str, Any]:
        """The properties to keep, for the product's metadata."""
        if not self.properties:
            return {}
        stated = slide.info.properties
        return {"properties": dict(stated) if self.patient_data else harmless(stated)}


def harmless(properties: Mapping[str, str]) -> dict[str, str]:
    """Those properties that cannot name a person, a case, a day or a place."""
    return {name: value for name, value in properties.items() if is_harmless(name)}


def is_harmless(name: str) -> bool:
    """Whether a property is on the list of what is allowed.

    Free text, names, identifiers, dates, serial numbers and UIDs of instances are not, nor is
    anything unknown. Of a nested DICOM attribute every part has to be.
    """
    vendor, _, rest = name.partition(".")
    allowed = _ALLOWED.get(vendor, frozenset())
    if vendor == "dicom":
        return all(part in allowed for part in _ITEM.sub("", rest).split("."))
    return rest in allowed or (vendor == "openslide" and _LEVEL.fullmatch(rest) is not None)
