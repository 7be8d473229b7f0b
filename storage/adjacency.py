"""One adjacency in a file of other tools: CSV, bare or BIDS-like TSV, NumPy, MATLAB, GraphML.

What a file says of itself (regions, centroids, measure, direction) is read back from ``.graphml``
and ``.mat`` files that were written here, and from the ``.json`` beside a ``.tsv``; a ``.csv``
names its regions.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .commit import writable, write_bytes
from .connectomes import Connectome
from .errors import BadConnectome, MissingFile, UnreadableFile

FORMATS = (".csv", ".tsv", ".npy", ".mat", ".graphml")
RELMAT = "_relmat.dense.tsv"
"""How BIDS (extension proposal 17) ends the name of a dense matrix of relations."""

Array = NDArray[np.float64]


def write_adjacency(path: Path, connectome: Connectome) -> None:
    """Write one adjacency for other tools, in the format that the name ends in.

    ``.csv``: region names in the first row and column. ``.tsv``: bare numbers, and beside them a
    ``.json`` that says the rest, as BIDS extension proposal 17 has it. ``.npy``: bare numbers.
    ``.mat``: MATLAB 5, ``adjacency``, ``regions``, ``centroids_mm`` … ``.graphml``: nodes with name
    and x, y, z (mm), edges with weight; edges of weight 0 and the diagonal are left out.

    Raises
    ------
    ValueError
        Another ending.
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    files = {path: _bytes_of(path, connectome)}
    if path.suffix == ".tsv":
        files[path.with_suffix(".json")] = json.dumps(_about(connectome), indent=1).encode()
    for file, content in files.items():
        with writable(file):
            write_bytes(file, content)


def _bytes_of(path: Path, connectome: Connectome) -> bytes:
    buffer = io.BytesIO()
    match path.suffix:
        case ".csv":
            import pandas as pd

            names = list(connectome.regions)
            pd.DataFrame(connectome.adjacency, index=names, columns=names).to_csv(buffer)
        case ".tsv":
            rows = ("\t".join(map(repr, row)) for row in connectome.adjacency.tolist())
            buffer.write(("\n".join(rows) + "\n").encode())
        case ".npy":
            np.save(buffer, connectome.adjacency, allow_pickle=False)
        case ".mat":
            from scipy.io import savemat

            about = _about(connectome)
            regions = np.array(about.pop("regions"), dtype=object)
            places = about.pop("centroids_mm")
            fields = {"adjacency": connectome.adjacency, "regions": regions, **about}
            savemat(buffer, fields if places is None else fields | {"centroids_mm": places})
        case ".graphml":
            import networkx as nx

            nx.write_graphml_xml(_graph_of(connectome), buffer)
        case suffix:
            raise ValueError(f"an adjacency is written as {', '.join(FORMATS)}, not {suffix!r}")
    return buffer.getvalue()


def _about(connectome: Connectome) -> dict[str, Any]:
    places = connectome.centroids_mm
    return {
        "subject": connectome.subject,
        "measure": connectome.measure,
        "modality": connectome.modality,
        "directed": connectome.directed,
        "regions": list(connectome.regions),
        "centroids_mm": None if places is None else places.tolist(),
    }


def _graph_of(connectome: Connectome) -> Any:
    import networkx as nx

    about = _about(connectome)
    regions, places = about.pop("regions"), about.pop("centroids_mm")
    graph: Any = (nx.DiGraph if connectome.directed else nx.Graph)(**about)
    for number, name in enumerate(regions):
        place = {} if places is None else dict(zip("xyz", places[number], strict=True))
        graph.add_node(f"n{number}", name=name, **place)
    weights = connectome.adjacency if connectome.directed else np.triu(connectome.adjacency, 1)
    for i, j in np.argwhere(weights):
        if i != j:
            graph.add_edge(f"n{i}", f"n{j}", weight=float(weights[i, j]))
    return graph


def read_adjacency(
    path: Path,
    *,
    measure: str | None = None,
    modality: str | None = None,
    directed: bool | None = None,
    subject: str | None = None,
    key: str | None = None,
) -> Connectome:
    """Read one adjacency: ``.csv``, ``.tsv``, ``.npy``, ``.mat`` or ``.graphml``.

    Regions without names are called ``region-001`` …; the subject is by default what the file
    says, else the file's name.

    Parameters
    ----------
    measure, modality, directed
        Override what the file says; the first two are needed where it does not.
    key
        Variable of a ``.mat`` file; ``adjacency``, or else the only square one, by default.

    Raises
    ------
    MissingFile, UnreadableFile, BadConnectome
    """
    if not path.is_file():
        raise MissingFile("no such adjacency", where=path, remedy="Check the path")
    try:
        matrix, about = _content(path, key)
    except (ValueError, TypeError, KeyError, UnicodeDecodeError, NotImplementedError) as error:
        raise UnreadableFile(
            f"not an adjacency ({error})",
            where=path,
            remedy="Give a .csv with region names in the first row and column, a .tsv or .npy of "
            "bare numbers, a .mat or a .graphml",
        ) from error
    said = about | {
        name: value
        for name, value in (("measure", measure), ("modality", modality), ("directed", directed))
        if value is not None
    }
    lacking = [name for name in ("measure", "modality") if not said.get(name)]
    if lacking:
        raise BadConnectome(
            f"the file does not say its {' and '.join(lacking)}",
            where=path,
            remedy="Say what a weight is and what it was measured with",
        )
    regions = said.get("regions") or [f"region-{i + 1:03d}" for i in range(len(matrix))]
    places = said.get("centroids_mm")
    name = path.name.removesuffix(RELMAT) if path.name.endswith(RELMAT) else path.stem
    return Connectome(
        matrix,
        tuple(map(str, regions)),
        str(said["measure"]),
        str(said["modality"]),
        str(said.get("subject") or name) if subject is None else subject,
        None if places is None else np.asarray(places, np.float64),
        bool(said.get("directed", False)),
    )


def _content(path: Path, key: str | None) -> tuple[Array, dict[str, Any]]:
    """The matrix, and what the file says of it."""
    match path.suffix:
        case ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float64), {}
        case ".tsv":
            beside = path.with_suffix(".json")
            about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
            if not isinstance(about, dict):
                raise ValueError(f"{beside.name} is not an object")
            return np.loadtxt(path, delimiter="\t", ndmin=2), about
        case ".mat":
            return _from_matlab(path, key)
        case ".graphml":
            return _from_graphml(path)
        case _:
            return _from_csv(path)


def _from_csv(path: Path) -> tuple[Array, dict[str, Any]]:
    import pandas as pd

    table = pd.read_csv(path, index_col=0, float_precision="round_trip")
    if list(table.index.astype(str)) != list(table.columns):
        raise BadConnectome("rows and columns do not name the same regions", where=path)
    return table.to_numpy(np.float64), {"regions": list(table.columns)}


def _from_matlab(path: Path, key: str | None) -> tuple[Array, dict[str, Any]]:
    import zlib

    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    except (MatReadError, OSError, zlib.error) as error:
        raise ValueError(str(error)) from error
    square = [k for k, v in found.items() if v.ndim == 2 and v.shape[0] == v.shape[1] > 1]
    name = key or ("adjacency" if "adjacency" in found else square[0] if len(square) == 1 else "")
    if name not in found:
        raise BadConnectome(
            f"which variable is the adjacency? There are {', '.join(found) or 'none'}",
            where=path,
            remedy="Name it with --key",
        )
    about: dict[str, Any] = {
        word: str(found[word].item())
        for word in ("subject", "measure", "modality")
        if word in found and found[word].size == 1
    }
    if "directed" in found:
        about["directed"] = bool(found["directed"].item())
    if "regions" in found:
        about["regions"] = [str(np.ravel(cell)[0]) for cell in found["regions"].ravel()]
    about["centroids_mm"] = found.get("centroids_mm")
    return np.asarray(found[name], np.float64), about


def _from_graphml(path: Path) -> tuple[Array, dict[str, Any]]:
    from xml.etree.ElementTree import ParseError

    import networkx as nx

    try:
        graph: Any = nx.read_graphml(path)
    except (ParseError, nx.NetworkXError) as error:
        raise ValueError(str(error)) from error
    if graph.is_multigraph():
        raise BadConnectome("two regions are joined by several edges", where=path)
    if any("weight" not in edge for _, _, edge in graph.edges(data=True)):
        raise BadConnectome(
            "an edge has no weight", where=path, remedy="Give every edge a number named weight"
        )
    nodes = list(graph.nodes(data=True))
    about = dict(graph.graph) | {
        "regions": [node.get("name", identity) for identity, node in nodes],
        "directed": graph.is_directed(),
    }
    if nodes and all({"x", "y", "z"} <= set(node) for _, node in nodes):
        about["centroids_mm"] = [[float(node[axis]) for axis in "xyz"] for _, node in nodes]
    return np.asarray(nx.to_numpy_array(graph), np.float64), about
