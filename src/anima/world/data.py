"""Images and labels, for circuits that learn from pictures.

This file exists so that a data set is either whole and right, or refused in one line that names the
file. It reads the IDX format (LeCun's, http://yann.lecun.com/exdb/mnist/) and nothing else; what is
not on disk is downloaded once into the user's cache, where a checksum guards every later reading.

IDX in one paragraph: two zero bytes, a type code, the number of dimensions; each dimension as a
big-endian 4-byte unsigned integer; then the values, big-endian, last dimension fastest.

Arrays are plain numpy: whoever learns decides when they go to a device.
"""

import contextlib
import difflib
import gzip
import hashlib
import http.client
import io
import math
import os
import re
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from anima.core.errors import InputError

try:
    import fcntl
except ImportError:  # not a Unix: downloads work, two processes at once are not kept apart
    fcntl = None

Progress = Callable[[str, int, int | None], None]
"""Told ``(file name, bytes so far, bytes in all or None)`` as a download advances."""

_PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_IMAGE_KINDS = tuple(f"idx{n}-{kind}" for n in (3, 4) for kind in ("ubyte", "float", "double"))
_LABEL_KINDS = ("idx1-ubyte",)
_TYPES = {0x08: np.dtype(np.uint8), 0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8")}
_CHUNK = 1 << 18  # bytes read at a time
_TIMEOUT = 30.0  # seconds without a byte before a mirror counts as silent


class DataError(InputError):
    """A data set that cannot be used: one line saying what, which file or value, and what to do."""


class _MirrorFailed(Exception):
    """Why one mirror did not deliver; the next one may."""


@dataclass(frozen=True, eq=False)
class Data:
    """A labelled set of images, in numpy.

    Pixels run from 0 (background) to 1; labels are whole numbers ``0 .. classes - 1``. Images are
    ``(height, width)`` or ``(height, width, channel)``.
    """

    name: str
    train_images: Float32[np.ndarray, "train *shape"] = field(repr=False)
    train_labels: Int32[np.ndarray, "train"] = field(repr=False)
    test_images: Float32[np.ndarray, "test *shape"] = field(repr=False)
    test_labels: Int32[np.ndarray, "test"] = field(repr=False)
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: ``(height, width)`` or ``(height, width, channel)``."""
        return self.train_images.shape[1:]

    @property
    def pixels(self) -> int:
        """How many numbers one image has: the size of a circuit's input node."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Source:
    """Where a named data set comes from: mirrors in the order to try, and each file's SHA-256."""

    mirrors: tuple[str, ...]
    sha256: Mapping[str, str]
    classes: int = 10


SOURCES: dict[str, Source] = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256={
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "fashion-mnist": Source(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        sha256={
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
    ),
}


def load_data(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    mirrors: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Data:
    """Load a data set by name, or from a folder of IDX files.

    - `digits`: 1,000 train and 797 test images of 8x8, in scikit-learn's order, divided by 16; it
      comes with scikit-learn, so `data_dir` plays no part.
    - `mnist`, `fashion-mnist`: 60,000 and 10,000 images of 28x28, divided by 255. Looked for in
      `data_dir` if given; else in the folder the environment variable `ANIMA_DATA` names; else in
      the user's cache (`$XDG_CACHE_HOME/anima` or `~/.cache/anima`); else downloaded into it.
      `data_dir` and `ANIMA_DATA` name either the folder of the four files or the one above it.
    - any other name: a folder (found as it is, or inside `data_dir` or `ANIMA_DATA`) holding
      `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
      `t10k-labels-idx1-ubyte`, plain or gzipped; `idx4` for colour, channel last. Bytes are divided
      by 255; images of type float or double must lie in [0, 1] already. There are as many classes
      as the train labels show, and every one of them occurs.

    Files in the cache must have the published SHA-256. Files in a folder of yours need not (you may
    keep a subset there): their structure is checked, byte for byte.

    **Arguments:**

    - `name`: `digits`, `mnist`, `fashion-mnist`, or a path.
    - `data_dir`: where the files are. Given, it is final: nothing is downloaded.
    - `mirrors`: base URLs to try instead of the official ones, in order.
    - `progress`: called with `(file name, bytes so far, bytes in all or None)` while downloading.

    **Returns:** `Data`: images float32 `(count, height, width[, channel])` in [0, 1], labels int32.

    **Raises:** `DataError` for an unknown name, a missing folder or file, and a file that is
    corrupt, truncated, mislabelled, of the wrong checksum, or does not fit the other three.

        >>> load_data("digits").train_images.shape
        (1000, 8, 8)

    MNIST: LeCun, Bottou, Bengio, Haffner, Proc. IEEE 86(11), 1998. Fashion-MNIST: Xiao, Rasul,
    Vollgraf, arXiv:1708.07747, 2017. Digits: Alpaydin, Kaynak, UCI repository, 1998.
    """
    name = os.fspath(name)
    if name == "digits":
        return _digits()
    if name not in SOURCES:
        return _assemble(name, _find_all(_find_folder(name, data_dir)), None)
    source = SOURCES[name]
    files = _find_given(name, data_dir)
    if files is None:
        files = _find_cached(name, source, mirrors, progress)
    return _assemble(name, files, source.classes)


def _digits() -> Data:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = (bunch.images / 16).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    return Data("digits", images[:1000], labels[:1000], images[1000:], labels[1000:], 10)


# Finding the files.


def _find_folder(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder that a name which is not a known data set stands for."""
    said = "ANIMA_DATA" if data_dir is None else "data_dir"
    above = os.environ.get("ANIMA_DATA") if data_dir is None else data_dir
    folder = Path(os.path.expanduser(name))
    if data_dir is not None or (above and not folder.is_dir()):
        folder = _existing(above or "", said) / folder
    if name and folder.is_dir():
        return folder
    if "/" in name or os.sep in name or name.startswith((".", "~")) or folder.is_file():
        raise DataError(f"no folder {os.fspath(folder)!r}; name one that holds IDX files")
    known = sorted(["digits", *SOURCES])
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(
        f"unknown data set {name!r}: {hint}known are {', '.join(known)}; "
        "or name a folder of IDX files"
    )


def _existing(folder: str | os.PathLike[str], said: str) -> Path:
    path = Path(os.path.expanduser(folder))
    if not os.fspath(folder) or not path.is_dir():
        raise DataError(f"no folder {os.fspath(folder)!r} ({said}); correct it, or leave it out")
    return path


def _find_given(name: str, data_dir: str | os.PathLike[str] | None) -> dict[str, Path] | None:
    """The named set's files in ``data_dir`` or ``ANIMA_DATA``; None if nobody said where to look.

    A folder in ``ANIMA_DATA`` that has none of the files is passed over (it may serve other sets);
    one that has some of them is an error, as is an explicit ``data_dir`` without all four.
    """
    said = "data_dir" if data_dir is not None else "ANIMA_DATA"
    given = data_dir if data_dir is not None else os.environ.get("ANIMA_DATA") or None
    if given is None:
        return None
    above = _existing(given, said)
    folders = [folder for folder in (above / name, above) if folder.is_dir()]
    for folder in folders:
        if any(_find(folder, part) for part in _PARTS):
            files = _find_all(folder)
            _refuse_other_set(name, files["train-labels"])
            return files
    return None if data_dir is None else _find_all(folders[0])


def _find(folder: Path, part: str) -> Path | None:
    """One of the four files, gzipped before plain; two different kinds of it are refused."""
    kinds = _LABEL_KINDS if part.endswith("labels") else _IMAGE_KINDS
    found: dict[str, Path] = {}
    for kind in kinds:
        for end in ("", ".gz"):
            if (path := folder / f"{part}-{kind}{end}").is_file():
                found[kind] = path
    if len(found) > 1:
        both = " and ".join(path.name for path in found.values())
        raise DataError(f"{folder} holds both {both}; keep one")
    return next(iter(found.values()), None)


def _find_all(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for part in _PARTS:
        path = _find(folder, part)
        if path is None:
            kind = "idx1" if part.endswith("labels") else "idx3"
            raise DataError(
                f"{folder} lacks {part}-{kind}-ubyte.gz (or the same without .gz); "
                "put it there, or name another folder (--data-dir)"
            )
        files[part] = path
    return files


def _refuse_other_set(name: str, labels: Path) -> None:
    """The four file names are the same for every set, so a wrong folder would else go unnoticed."""
    digest = _sha256(labels)
    for other, source in SOURCES.items():
        if other != name and digest in source.sha256.values():
            raise DataError(f"{labels.parent} holds {other}, not {name}; name another folder")


# Reading and checking them.


def _assemble(name: str, files: Mapping[str, Path], classes: int | None) -> Data:
    """Read the four files and see that they fit; ``classes`` None: as many as the labels show."""
    train_images, train_labels = _read_pair(files["train-images"], files["train-labels"])
    test_images, test_labels = _read_pair(files["t10k-images"], files["t10k-labels"])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{files['t10k-images']}: images are {_times(test_images.shape[1:])} but those of "
            f"{files['train-images'].name} are {_times(train_images.shape[1:])}; make them alike"
        )
    if classes is None:
        classes = _count_classes(files["train-labels"], train_labels)
    _check_labels(files["train-labels"], train_labels, classes)
    _check_labels(files["t10k-labels"], test_labels, classes)
    return Data(name, train_images, train_labels, test_images, test_labels, classes)


def _read_pair(
    images: Path, labels: Path
) -> tuple[Float32[np.ndarray, "count *shape"], Int32[np.ndarray, "count"]]:
    pixels, numbers = _read_images(images), _read_labels(labels)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{labels}: {len(numbers)} labels for {len(pixels)} images in {images.name}; "
            "take both files from the same set"
        )
    return pixels, numbers


def _read_images(path: Path) -> Float32[np.ndarray, "count *shape"]:
    values = _read_idx(path)
    if values.dtype == np.uint8:
        return np.divide(values, 255, dtype=np.float32)
    for wrong, what in (
        (~np.isfinite(values), "is not finite"),
        ((values < 0) | (values > 1), "is outside [0, 1]"),
    ):
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(f"{path}: the value {values[where]} at {where} {what}; correct it")
    return values.astype(np.float32)


def _read_labels(path: Path) -> Int32[np.ndarray, "count"]:
    values = _read_idx(path)
    if values.dtype != np.uint8:
        raise DataError(f"{path}: labels of IDX type {values.dtype}; write them as unsigned bytes")
    return values.astype(np.int32)


def _count_classes(path: Path, labels: Int32[np.ndarray, "count"]) -> int:
    counts = np.bincount(labels)
    if not counts.all():
        raise DataError(
            f"{path}: labels reach {len(counts) - 1} but none is {int(np.argmin(counts))}; "
            "number the classes 0, 1, 2, ... without a gap"
        )
    return len(counts)


def _check_labels(path: Path, labels: Int32[np.ndarray, "count"], classes: int) -> None:
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise DataError(
            f"{path}: label {labels[wrong[0]]} at position {wrong[0]} is outside 0..{classes - 1}; "
            "correct the file"
        )


def _read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, exactly as long as its header says, with the rank its name says."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            dtype, shape = _read_header(path, stream)
            need = math.prod(shape) * dtype.itemsize
            body = _read_up_to(stream, need + 1)  # reading on to the end makes gzip check its CRC
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: corrupt or truncated gzip file ({error}); get it anew") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file"
        ) from error
    if len(body) < need:
        raise DataError(
            f"{path}: truncated: {len(body)} bytes of values where {_times(shape)} of "
            f"{dtype.itemsize} need {need}; get it anew"
        )
    if len(body) > need:
        raise DataError(
            f"{path}: bytes follow the {need} that {_times(shape)} values need; get it anew"
        )
    return np.frombuffer(body, dtype).reshape(shape)


def _read_header(path: Path, stream: io.BufferedIOBase) -> tuple[np.dtype, tuple[int, ...]]:
    rank = int(path.name.split("-idx")[1][0])
    magic = _read_up_to(stream, 4)
    if len(magic) < 4:
        raise DataError(f"{path}: truncated: {len(magic)} bytes in all; get it anew")
    if magic[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file (starts with {bytes(magic[:2])!r}); get it anew")
    if magic[2] not in _TYPES:
        raise DataError(
            f"{path}: IDX type 0x{magic[2]:02X}; supported are 0x08 unsigned byte, 0x0D float, "
            "0x0E double: convert it"
        )
    if magic[3] != rank:
        raise DataError(
            f"{path}: mislabelled: the name says {rank} dimension(s), the file has {magic[3]}; "
            "check that images and labels are not exchanged"
        )
    sizes = _read_up_to(stream, 4 * rank)
    if len(sizes) < 4 * rank:
        raise DataError(f"{path}: truncated within its header; get it anew")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    if 0 in shape:
        raise DataError(f"{path}: empty: its shape is {_times(shape)}; get it anew")
    return _TYPES[magic[2]], shape


def _read_up_to(stream: io.BufferedIOBase, count: int) -> bytearray:
    """Read in chunks, so that a false header of 4 billion images asks for no memory."""
    data = bytearray()
    while len(data) < count and (chunk := stream.read(min(_CHUNK, count - len(data)))):
        data += chunk
    return data


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


# The cache and the download into it.


def _find_cached(
    name: str, source: Source, mirrors: Sequence[str] | None, progress: Progress | None
) -> dict[str, Path]:
    """The named set's files in the cache, downloading what is not there yet."""
    folder = _cache() / name
    for file, sha256 in source.sha256.items():
        path = folder / file
        if not path.is_file():
            _download(path, sha256, source.mirrors if mirrors is None else mirrors, progress)
        elif (digest := _sha256(path)) != sha256:
            raise DataError(
                f"{path}: SHA-256 is {digest}, not {sha256}; delete the file to download it again"
            )
    return {part: folder / file for part in _PARTS for file in source.sha256 if part in file}


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    above = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))
    return above / "anima"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file"
        ) from error


def _download(path: Path, sha256: str, mirrors: Sequence[str], progress: Progress | None) -> None:
    """Bring ``path`` from the first mirror that has it right; it appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    failures: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_process_in(path.parent):
            if path.is_file():  # another process brought it while this one waited
                return
            for mirror in mirrors:
                url = f"{mirror.rstrip('/')}/{path.name}"
                try:
                    _fetch(url, part, sha256, progress)
                except _MirrorFailed as error:
                    failures.append(f"{url}: {error}")
                else:
                    os.replace(part, path)
                    return
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "make room, or set XDG_CACHE_HOME"
        ) from error
    raise DataError(
        f"{path.name} could not be downloaded ({'; '.join(failures) or 'no mirrors'}); try again, "
        "or get the files by hand and name their folder (--data-dir, or ANIMA_DATA)"
    )


@contextlib.contextmanager
def _one_process_in(folder: Path) -> Iterator[None]:
    """Lock the folder: two processes that append to one .part would spoil it for each other."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the checksum still guards
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch(url: str, part: Path, sha256: str, progress: Progress | None) -> None:
    """Make ``part`` whole from one mirror; resumed and wrong, it is fetched afresh."""
    if part.is_file() and _sha256(part) == sha256:
        return
    while True:
        resumed = _transfer(url, part, progress)
        digest = _sha256(part)
        if digest == sha256:
            return
        part.unlink()
        if not resumed:
            raise _MirrorFailed(f"SHA-256 is {digest}, not {sha256}")


def _transfer(url: str, part: Path, progress: Progress | None) -> bool:
    """Download to ``part``, after what it already has if the server can; says whether it could.

    A broken connection leaves ``part`` as far as it came, for the next attempt.
    """
    have = part.stat().st_size if part.is_file() else 0
    with _request(url, have) as response:
        begin = have if response.status == 206 else 0
        if begin and not re.match(rf"bytes {begin}-", response.headers.get("Content-Range", "")):
            part.unlink()
            raise _MirrorFailed("answered with another range than asked for")
        total = None if response.length is None else begin + response.length
        done = begin
        with part.open("ab" if begin else "wb") as stream:
            for chunk in _chunks(response):
                stream.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), done, total)
    if total is not None and done < total:
        raise _MirrorFailed(f"the connection broke after {done} of {total} bytes")
    return begin > 0


def _request(url: str, have: int) -> http.client.HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise _MirrorFailed("not an http:// or https:// address")
    headers = {"User-Agent": "anima", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            if error.code != 416 or not have:
                raise _MirrorFailed(f"HTTP {error.code} {error.reason}") from error
        return _request(url, 0)  # nothing lies beyond what .part has, and it is wrong: start over
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorFailed(_one_line(error)) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)  # what has come, so that a break loses nothing
        except (OSError, http.client.HTTPException) as error:
            raise _MirrorFailed(f"the connection broke ({_one_line(error)})") from error
        if not chunk:
            return
        yield chunk


def _one_line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
