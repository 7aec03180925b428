"""Data sets: found where they should be, downloaded whole, refused by name when they are not."""

import dataclasses
import gzip
import hashlib
import http.server
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from anima.world import data as module
from anima.world.data import SOURCES, Data, DataError, Source, load_data

FILES = {
    "train-images": "train-images-idx3-ubyte.gz",
    "train-labels": "train-labels-idx1-ubyte.gz",
    "t10k-images": "t10k-images-idx3-ubyte.gz",
    "t10k-labels": "t10k-labels-idx1-ubyte.gz",
}
# Small sets to try things on.


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    """The bytes of an IDX file."""
    kinds = {0x08: "u1", 0x0B: ">i2", 0x0D: ">f4", 0x0E: ">f8"}
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(kinds[code]).tobytes()


def contents(train: int = 40, test: int = 20, side: int = 12, seed: int = 0) -> dict[str, bytes]:
    """The four IDX files of a set of noise (so that gzip cannot shrink it), in ten classes."""
    rng = np.random.default_rng(seed)
    made = {}
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, side, side))
        images[0, 0, :2] = 0, 255
        made[f"{part}-images"] = idx(images)
        made[f"{part}-labels"] = idx(np.arange(count) % 10)
    return made


def zipped(files: dict[str, bytes]) -> dict[str, bytes]:
    """Gzipped, under the published names."""
    return {FILES[part]: gzip.compress(data, mtime=0) for part, data in files.items()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def message(folder: object, *args: object, **kwargs: object) -> str:
    """What the refusal says; it must be a single line."""
    with pytest.raises(DataError) as caught:
        load_data(folder, *args, **kwargs)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text and "\n" not in text
    return text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache, data or proxy, nor the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("ANIMA_DATA", raising=False)
    for name, source in SOURCES.items():
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, mirrors=()))
    return tmp_path / "cache" / "anima"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A tiny `mnist` whose checksums are the published ones while the test runs."""
    files = zipped(contents())
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setitem(SOURCES, "mnist", Source(mirrors=(), sha256=sums))
    return files


# What is loaded.


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits")
    assert data.name == "digits" and data.classes == 10
    assert data.shape == (8, 8) and data.pixels == 64
    assert data.train_images.shape == (1000, 8, 8) and data.test_images.shape == (797, 8, 8)
    assert data.train_images.dtype == np.float32 and data.train_labels.dtype == np.int32
    assert data.train_images.min() == 0 and data.train_images.max() == 1
    whole = load_digits()
    both = np.concatenate([data.train_images, data.test_images])
    assert np.array_equal(both * 16, whole.images)
    assert np.array_equal(np.append(data.train_labels, data.test_labels), whole.target)


@pytest.mark.parametrize(
    ("name", "mean", "std", "counts"),
    [
        ("mnist", 0.13066, 0.30811, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("fashion-mnist", 0.28604, 0.35302, [6000] * 10),
    ],
)
def test_published_sets_have_the_checksums_and_statistics(name, mean, std, counts, cache, real):
    cache.mkdir(parents=True)
    (cache / name).symlink_to(real(name).resolve())  # in the cache, so that checksums count
    data = load_data(name)
    assert data.train_images.shape == (60_000, 28, 28) and data.test_images.shape[0] == 10_000
    assert data.train_images.dtype == np.float32 and data.train_labels.dtype == np.int32
    assert data.train_images.mean(dtype=np.float64) == pytest.approx(mean, abs=5e-6)
    assert data.train_images.std(dtype=np.float64) == pytest.approx(std, abs=5e-6)
    assert np.bincount(data.train_labels).tolist() == counts


def test_a_real_folder_in_colour(real) -> None:
    folder = real("cifar10-subset")
    data = load_data(str(folder))
    assert data.shape == (32, 32, 3) and data.pixels == 3072 and data.classes == 10
    assert np.bincount(data.train_labels).tolist() == [300] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    assert load_data(folder.name, folder.parent).train_images.shape == data.train_images.shape


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_sets_are_not_taken_for_each_other(name: str, real) -> None:
    other = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}[name]
    assert f"holds {other}, not {name}" in message(name, real(other))


def test_bytes_are_divided_by_255_and_kept_in_order(tmp_path: Path) -> None:
    files = contents()
    data = load_data(str(write(tmp_path / "set", zipped(files))))
    pixels = np.frombuffer(files["train-images"], np.uint8, offset=16).reshape(40, 12, 12)
    assert np.array_equal(data.train_images, pixels.astype(np.float32) / np.float32(255))
    assert data.train_images.max() == 1 and data.train_images.dtype == np.float32
    assert data.train_labels.tolist() == [i % 10 for i in range(40)]
    assert data.test_images.shape == (20, 12, 12) and data.classes == 10


def test_plain_files_mean_the_same_as_gzipped_ones(tmp_path: Path) -> None:
    files = contents()
    plain = write(tmp_path / "plain", {FILES[p].removesuffix(".gz"): b for p, b in files.items()})
    packed = write(tmp_path / "packed", zipped(files))
    a, b = load_data(str(plain)), load_data(packed)
    assert np.array_equal(a.train_images, b.train_images)
    assert np.array_equal(a.test_labels, b.test_labels)


def test_gzipped_is_taken_before_plain(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", zipped(contents()))
    (folder / "train-images-idx3-ubyte").write_bytes(b"half an unpacking")
    assert load_data(folder).train_images.shape == (40, 12, 12)


@pytest.mark.parametrize(("code", "kind"), [(0x0D, "float"), (0x0E, "double"), (0x0D, "ubyte")])
def test_float_images_are_taken_as_they_are(tmp_path: Path, code: int, kind: str) -> None:
    images = np.random.default_rng(1).uniform(size=(10, 2, 3, 3))
    images[0, 0, 0] = 0, 0.5, 1
    files = {FILES[p]: gzip.compress(idx(np.arange(10))) for p in ("train-labels", "t10k-labels")}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx4-{kind}"] = idx(images, code)
    data = load_data(write(tmp_path / "set", files))
    assert data.shape == (2, 3, 3) and data.train_images.dtype == np.float32
    assert np.array_equal(data.train_images, images.astype(np.float32))


def test_data_is_a_quiet_record() -> None:
    data = load_data("digits")
    assert repr(data) == "Data(name='digits', classes=10)"
    assert data == data and data != dataclasses.replace(data)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]


# Where it is looked for.


def test_data_dir_holds_the_files_or_a_folder_of_them(tmp_path: Path) -> None:
    write(tmp_path / "all" / "mnist", zipped(contents(train=30)))
    assert len(load_data("mnist", tmp_path / "all").train_images) == 30
    assert len(load_data("mnist", str(tmp_path / "all" / "mnist")).train_images) == 30


def test_data_dir_comes_before_the_environment_and_that_before_the_cache(
    tmp_path: Path, cache: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache / "mnist", published)
    write(tmp_path / "env" / "mnist", zipped(contents(train=30)))
    write(tmp_path / "dir", zipped(contents(train=20)))
    assert len(load_data("mnist").train_images) == 40
    monkeypatch.setenv("ANIMA_DATA", str(tmp_path / "env"))
    assert len(load_data("mnist").train_images) == 30
    monkeypatch.setenv("ANIMA_DATA", str(tmp_path / "env" / "mnist"))
    assert len(load_data("mnist").train_images) == 30
    assert len(load_data("mnist", tmp_path / "dir").train_images) == 20
    monkeypatch.setenv("ANIMA_DATA", "")
    assert len(load_data("mnist").train_images) == 40


def test_a_folder_is_found_by_path_in_data_dir_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine", zipped(contents()))
    assert load_data(str(tmp_path / "mine")).classes == 10
    assert load_data("mine", tmp_path).name == "mine"
    monkeypatch.setenv("ANIMA_DATA", str(tmp_path))
    assert load_data("mine").name == "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANIMA_DATA", str(tmp_path / "gone"))
    assert load_data("mine").name == "mine"  # found here: the environment is not asked


def test_the_cache_is_in_the_home_folder_unless_the_environment_says_where(
    tmp_path: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".cache" / "anima" / "mnist", published)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert len(load_data("mnist").train_images) == 40
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification: to be ignored
    assert len(load_data("mnist").train_images) == 40


def test_an_environment_folder_without_the_set_is_passed_over(
    tmp_path: Path, cache: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache / "mnist", published)
    write(tmp_path / "env" / "fashion-mnist", zipped(contents(seed=1)))
    monkeypatch.setenv("ANIMA_DATA", str(tmp_path / "env"))
    assert len(load_data("mnist").train_images) == 40


def test_a_folder_with_part_of_the_set_is_not_passed_over(
    tmp_path: Path, cache: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache / "mnist", published)
    folder = write(tmp_path / "env" / "mnist", zipped(contents()))
    (folder / FILES["t10k-labels"]).unlink()
    monkeypatch.setenv("ANIMA_DATA", str(tmp_path / "env"))
    assert f"{folder} lacks t10k-labels-idx1-ubyte.gz" in message("mnist")


def test_a_folder_of_yours_may_hold_a_subset(tmp_path: Path) -> None:
    files = contents(train=5, test=3)  # five of ten classes, checksums unknown
    data = load_data("mnist", write(tmp_path / "set", zipped(files)))
    assert len(data.train_images) == 5 and data.classes == 10


# What is refused.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnits", "did you mean 'mnist'?"),
        ("Fashion_MNIST", "did you mean 'fashion-mnist'?"),
        ("xyzzy", "unknown data set 'xyzzy': known are digits, fashion-mnist, mnist"),
        ("", "unknown data set ''"),
        ("~nobody-of-that-name", "no folder '~nobody-of-that-name'"),
        ("./gone", "no folder 'gone'"),
        (__file__, f"no folder '{__file__}'"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    assert said in message(name)


def test_a_file_is_not_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, {"mine": b""}))
    assert "no folder 'mine'; name one that holds IDX files" in message("mine")


@pytest.mark.parametrize("name", ["mnist", "mine"])
@pytest.mark.parametrize("bad", ["gone", "", __file__])
def test_missing_folders(
    name: str, bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"no folder {bad!r} (data_dir)" in message(name, bad)
    if bad:
        monkeypatch.setenv("ANIMA_DATA", bad)
        assert f"no folder {bad!r} (ANIMA_DATA)" in message(name)


@pytest.mark.parametrize("part", FILES)
def test_missing_files(part: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", zipped(contents()))
    (folder / FILES[part]).unlink()
    said = f"{folder} lacks {FILES[part]}"
    assert said in message(str(folder))
    assert said in message("mnist", folder)


def test_data_dir_without_the_set_is_final(
    tmp_path: Path, cache: Path, published: dict[str, bytes]
) -> None:
    write(cache / "mnist", published)
    assert f"{tmp_path} lacks train-images-idx3-ubyte.gz" in message("mnist", tmp_path)


def test_two_kinds_of_one_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", zipped(contents()))
    (folder / "train-images-idx4-ubyte").write_bytes(b"")
    assert "holds both train-images-idx3-ubyte.gz and train-images-idx4-ubyte" in message(folder)


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = write(tmp_path / "set", zipped(contents()))
    monkeypatch.setattr(module.gzip, "open", refuse)
    assert "train-images-idx3-ubyte.gz: cannot be read (Permission denied)" in message(folder)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def _pack(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


IMAGES = contents()["train-images"]
LABELS = contents()["train-labels"]
NOISE = np.random.default_rng(2).uniform(size=(40, 12, 12))


def _words(value: object) -> str:
    """A readable test name: file contents show as their length."""
    return f"{len(value)}B" if isinstance(value, bytes) else str(value)


def _with(where: tuple[int, ...], value: float) -> np.ndarray:
    array = NOISE.copy()
    array[where] = value
    return array


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("train-images", _flipped(_pack(IMAGES)), "corrupt or truncated gzip file"),
        (  # an impossible block type, where the compressed data begin
            "train-images",
            _pack(IMAGES)[:10] + b"\xff" + _pack(IMAGES)[11:],
            "corrupt or truncated gzip file (Error -3 while decompressing data",
        ),
        ("train-images", _pack(IMAGES)[:-9], "corrupt or truncated gzip file"),
        ("train-images", _pack(IMAGES)[:2000], "corrupt or truncated gzip file"),
        ("train-images", _pack(IMAGES) + b"rubbish", "corrupt or truncated gzip file"),
        ("train-images", IMAGES, "corrupt or truncated gzip file (Not a gzipped file"),
        ("train-labels", b"<html>404</html>", "corrupt or truncated gzip file"),
        ("train-images", b"", "truncated: 0 bytes in all"),
        ("train-images", _pack(IMAGES[:-1]), "truncated: 5759 bytes of values where 40x12x12"),
        ("train-images", _pack(IMAGES[:9]), "truncated within its header"),
        ("train-images", _pack(IMAGES[:3]), "truncated: 3 bytes in all"),
        ("train-images", _pack(IMAGES + b"\0"), "bytes follow the 5760"),
        ("t10k-labels", _pack(LABELS + b"\0"), "bytes follow the 40"),
        ("train-images", _pack(IMAGES[:4] + b"\xff" * 40), "truncated: 28 bytes of values"),
        ("train-images", _pack(idx(np.zeros((0, 12, 12)))), "empty: its shape is 0x12x12"),
        ("t10k-images", _pack(idx(np.zeros((20, 12, 0)))), "empty: its shape is 20x12x0"),
        ("train-labels", _pack(idx(np.zeros(0))), "empty: its shape is 0"),
        (
            "train-images",
            _pack(LABELS),
            "mislabelled: the name says 3 dimension(s), the file has 1",
        ),
        ("t10k-labels", _pack(IMAGES), "mislabelled: the name says 1 dimension(s), the file has 3"),
        ("train-images", _pack(idx(np.zeros((9, 3, 3, 3)))), "the file has 4"),
        ("train-images", _pack(b"\x89PNG" + IMAGES), "not an IDX file (starts with b'\\x89P')"),
        ("train-images", _pack(_pack(IMAGES)), "not an IDX file"),
        ("train-images", _pack(idx(np.zeros((40, 12, 12)), 0x0B)), "IDX type 0x0B"),
        ("train-labels", _pack(idx(np.zeros(40), 0x0D)), "write them as unsigned bytes"),
        ("train-labels", _pack(idx(np.zeros(40), 0x0E)), "write them as unsigned bytes"),
        (
            "train-images",
            _pack(idx(_with((3, 1, 2), np.nan), 0x0D)),
            "the value nan at (3, 1, 2) is not finite",
        ),
        ("t10k-images", _pack(idx(_with((5, 0, 0), np.inf), 0x0E)), "the value inf at (5, 0, 0)"),
        (
            "train-images",
            _pack(idx(_with((7, 2, 2), 1.5), 0x0D)),
            "the value 1.5 at (7, 2, 2) is outside [0, 1]",
        ),
        ("train-images", _pack(idx(_with((1, 2, 0), -0.25), 0x0E)), "the value -0.25 at (1, 2, 0)"),
        ("train-labels", _pack(idx(np.arange(39) % 10)), "39 labels for 40 images"),
        ("t10k-labels", _pack(idx(np.arange(40) % 10)), "40 labels for 20 images"),
        ("t10k-images", _pack(idx(np.zeros((20, 12, 11)))), "are 12x11 but those of"),
        ("train-labels", _pack(idx(np.arange(40) % 10 * 2)), "labels reach 18 but none is 1"),
        ("train-labels", _pack(idx(np.arange(40) % 9 + 1)), "labels reach 9 but none is 0"),
        ("t10k-labels", _pack(idx(np.arange(20) % 11)), "label 10 at position 10 is outside 0..9"),
    ],
    ids=_words,
)
def test_bad_files(tmp_path: Path, part: str, content: bytes, said: str) -> None:
    folder = write(tmp_path / "set", zipped(contents()))
    (folder / FILES[part]).write_bytes(content)
    text = message(str(folder))
    assert said in text
    assert str(folder / FILES[part]) in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (IMAGES[:-1], "truncated: 5759"),
        (IMAGES + b"\0", "bytes follow"),
        (_pack(IMAGES), "not an IDX"),
        (LABELS, "mislabelled"),
    ],
    ids=_words,
)
def test_bad_plain_files(tmp_path: Path, content: bytes, said: str) -> None:
    files = {FILES[p].removesuffix(".gz"): b for p, b in contents().items()}
    files["train-images-idx3-ubyte"] = content
    folder = write(tmp_path / "set", files)
    text = message(str(folder))
    assert said in text and str(folder / "train-images-idx3-ubyte") in text


@pytest.mark.parametrize("part", ["train-labels", "t10k-labels"])
def test_a_named_set_has_ten_classes(tmp_path: Path, part: str) -> None:
    count = {"train-labels": 40, "t10k-labels": 20}[part]
    files = contents() | {part: idx(np.arange(count) % 11)}
    folder = write(tmp_path / "set", zipped(files))
    said = f"{folder / FILES[part]}: label 10 at position 10 is outside 0..9"
    assert said in message("mnist", folder)


def test_a_folder_of_another_known_set(tmp_path: Path, published: dict[str, bytes]) -> None:
    folder = write(tmp_path / "set", published)
    assert f"{folder} holds mnist, not fashion-mnist" in message("fashion-mnist", folder)
    assert len(load_data("mnist", folder).train_images) == 40


@pytest.mark.parametrize("part", FILES)
def test_the_cache_must_have_the_checksum(
    part: str, cache: Path, published: dict[str, bytes]
) -> None:
    """A file that reads well but is not the published one."""
    folder = write(
        cache / "mnist", published | {FILES[part]: zipped(contents(seed=3))[FILES[part]]}
    )
    if part.endswith("labels"):
        (folder / FILES[part]).write_bytes(published[FILES[part]] + b"\0")
    text = message("mnist")
    assert str(folder / FILES[part]) in text and "SHA-256" in text and "delete the file" in text


# Downloading, from a server on this machine.


class Mirror(http.server.ThreadingHTTPServer):
    """A mirror that may misbehave, and notes what it is asked for."""

    daemon_threads = False  # so that closing waits for the answers

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True  # honours Range
        self.shift = 0  # starts a range this many bytes off
        self.sizes = True  # announces the length
        self.break_after: int | None = None  # closes the connection after so many bytes
        self.pause = 0.0  # seconds before each answer
        self.linger = 0.0  # seconds after it, before the connection closes


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror, name = self.server, self.path.lstrip("/")
        wanted = self.headers.get("Range")
        mirror.asked.append((name, wanted))
        time.sleep(mirror.pause)
        if name not in mirror.files:
            self.send_error(404)
            return
        body, status = mirror.files[name], 200
        begin = 0
        if wanted and mirror.ranges:
            begin, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            if begin >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            begin += mirror.shift
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if mirror.sizes:
            self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin:][: mirror.break_after])
        time.sleep(mirror.linger)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], Mirror]]:
    running: list[tuple[Mirror, threading.Thread]] = []

    def start(files: dict[str, bytes]) -> Mirror:
        mirror = Mirror(files)
        thread = threading.Thread(target=mirror.serve_forever, args=(0.01,))
        thread.start()
        running.append((mirror, thread))
        return mirror

    yield start
    for mirror, thread in running:
        mirror.shutdown()
        thread.join()
        mirror.server_close()


Serve = Callable[[dict[str, bytes]], Mirror]
FIRST = FILES["train-images"]
PART = FIRST + ".part"


def all_is_well(data: Data, cache: Path, published: dict[str, bytes]) -> None:
    assert data.train_images.shape == (40, 12, 12)
    assert {path.name: path.read_bytes() for path in (cache / "mnist").iterdir()} == published


def test_a_download_is_made_once(
    cache: Path, published: dict[str, bytes], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = serve(published)
    sums = SOURCES["mnist"].sha256
    monkeypatch.setitem(SOURCES, "mnist", Source(mirrors=(mirror.url,), sha256=sums))
    all_is_well(load_data("mnist"), cache, published)
    assert mirror.asked == [(name, None) for name in published]
    load_data("mnist")
    assert len(mirror.asked) == 4


def test_only_missing_files_are_downloaded(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    write(cache / "mnist", {k: v for k, v in published.items() if k != FIRST})
    mirror = serve(published)
    all_is_well(load_data("mnist", mirrors=[mirror.url.rstrip("/")]), cache, published)
    assert mirror.asked == [(FIRST, None)]


@pytest.mark.parametrize("sizes", [True, False])
def test_progress(
    published: dict[str, bytes], serve: Serve, sizes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1000)
    mirror = serve(published)
    mirror.sizes = sizes
    seen: list[tuple[str, int, int | None]] = []
    load_data("mnist", mirrors=[mirror.url], progress=lambda *told: seen.append(told))
    for name, data in published.items():
        done = [told[1] for told in seen if told[0] == name]
        assert done == sorted(done) and done[-1] == len(data)
        assert len(done) >= len(data) / 1000
    assert {told[2] is None for told in seen} == {not sizes}
    assert not sizes or all(total == len(published[name]) for name, _, total in seen)


def test_a_broken_download_is_kept_and_resumed(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    mirror = serve(published)
    mirror.break_after = 1500
    text = message("mnist", mirrors=[mirror.url])
    assert f"the connection broke after 1500 of {len(published[FIRST])} bytes" in text
    assert FIRST in text and mirror.url in text and "--data-dir" in text
    assert [path.name for path in (cache / "mnist").iterdir()] == [PART]
    assert (cache / "mnist" / PART).read_bytes() == published[FIRST][:1500]

    mirror.break_after = None
    mirror.asked.clear()
    seen: list[tuple[str, int, int | None]] = []
    data = load_data("mnist", mirrors=[mirror.url], progress=lambda *told: seen.append(told))
    all_is_well(data, cache, published)
    assert mirror.asked[0] == (FIRST, "bytes=1500-")
    assert [asked for _, asked in mirror.asked[1:]] == [None] * 3
    assert seen[0][1] > 1500 and seen[0][2] == len(published[FIRST])


def test_a_download_that_falls_silent_is_kept(
    cache: Path, published: dict[str, bytes], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    mirror = serve(published)
    mirror.break_after, mirror.linger = 1500, 0.3
    assert "the connection broke (timed out)" in message("mnist", mirrors=[mirror.url])
    assert (cache / "mnist" / PART).read_bytes() == published[FIRST][:1500]


def test_the_next_mirror_resumes_what_the_first_began(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    broken, whole = serve(published), serve(published)
    broken.break_after = 100
    all_is_well(load_data("mnist", mirrors=[broken.url, whole.url]), cache, published)
    assert (FIRST, "bytes=100-") in whole.asked


def test_a_connection_lost_without_an_announced_length(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    mirror = serve(published)
    mirror.sizes, mirror.break_after = False, 1500
    assert "SHA-256" in message("mnist", mirrors=[mirror.url])
    assert not list((cache / "mnist").iterdir())


def test_an_interrupted_download_is_kept(
    cache: Path, published: dict[str, bytes], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_CHUNK", 1000)
    mirror = serve(published)
    with pytest.raises(KeyboardInterrupt):
        load_data("mnist", mirrors=[mirror.url], progress=interrupt)
    assert [path.name for path in (cache / "mnist").iterdir()] == [PART]
    all_is_well(load_data("mnist", mirrors=[mirror.url]), cache, published)
    assert re.fullmatch(r"bytes=\d+-", mirror.asked[1][1] or "")


def test_a_whole_part_needs_no_request(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    write(cache / "mnist", {PART: published[FIRST]})
    mirror = serve(published)
    all_is_well(load_data("mnist", mirrors=[mirror.url]), cache, published)
    assert FIRST not in [name for name, _ in mirror.asked]


@pytest.mark.parametrize("begun", [b"", b"x" * 1500, b"x" * 99_999], ids=len)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_wrong_part_is_started_over(
    cache: Path, published: dict[str, bytes], serve: Serve, begun: bytes, ranges: bool
) -> None:
    """Servers that ignore Range answer 200; a part longer than the file is answered 416."""
    write(cache / "mnist", {PART: begun})
    mirror = serve(published)
    mirror.ranges = ranges
    all_is_well(load_data("mnist", mirrors=[mirror.url]), cache, published)
    asked = [wanted for name, wanted in mirror.asked if name == FIRST]
    first = [f"bytes={len(begun)}-"] if begun else [None]
    assert asked == first + [None] * (ranges and bool(begun))


def test_a_right_part_is_replaced_where_ranges_are_ignored(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    write(cache / "mnist", {PART: published[FIRST][:1500]})
    mirror = serve(published)
    mirror.ranges = False
    all_is_well(load_data("mnist", mirrors=[mirror.url]), cache, published)
    assert [wanted for name, wanted in mirror.asked if name == FIRST] == ["bytes=1500-"]


def test_a_range_that_was_not_asked_for(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    write(cache / "mnist", {PART: published[FIRST][:1500]})
    odd, whole = serve(published), serve(published)
    odd.shift = 7
    all_is_well(load_data("mnist", mirrors=[odd.url, whole.url]), cache, published)
    assert whole.asked[0] == (FIRST, None)


def test_wrong_bytes_are_refused_by_name_and_not_kept(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    wrong = zipped(contents(seed=4))  # a sound file, and not the published one
    mirrors = [serve(wrong), serve({FIRST: b"<html>please log in</html>"})]
    text = message("mnist", mirrors=[mirror.url for mirror in mirrors])
    for mirror, data in zip(mirrors, (wrong[FIRST], b"<html>please log in</html>"), strict=True):
        assert f"{mirror.url}{FIRST}: SHA-256 is {hashlib.sha256(data).hexdigest()}, not" in text
        assert mirror.asked == [(FIRST, None)]
    assert not list((cache / "mnist").iterdir())


def test_wrong_bytes_after_a_resumption_are_tried_once_afresh(
    cache: Path, published: dict[str, bytes], serve: Serve
) -> None:
    write(cache / "mnist", {PART: published[FIRST][:1500]})
    mirror = serve(zipped(contents(seed=4)))
    assert "SHA-256" in message("mnist", mirrors=[mirror.url])
    assert mirror.asked == [(FIRST, "bytes=1500-"), (FIRST, None)]
    assert not list((cache / "mnist").iterdir())


def test_mirrors_are_tried_in_order(cache: Path, published: dict[str, bytes], serve: Serve) -> None:
    empty, wrong, whole, unused = (
        serve({}),
        serve(zipped(contents(seed=4))),  # its labels are the same
        serve(published),
        serve(published),
    )
    urls = ["file:///etc/", empty.url, wrong.url, whole.url, unused.url]
    all_is_well(load_data("mnist", mirrors=urls), cache, published)
    assert len(empty.asked) == len(wrong.asked) == 4 and not unused.asked
    assert [name for name, _ in whole.asked] == [FIRST, FILES["t10k-images"]]


def test_when_every_mirror_fails_each_is_named_with_its_reason(
    cache: Path, published: dict[str, bytes], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    empty, silent, gone = serve({}), serve(published), Mirror({})
    silent.pause = 0.3
    gone.server_close()
    urls = [empty.url, silent.url, gone.url, "file:///nowhere/", "http://[bad/", "mnist.example"]
    text = message("mnist", mirrors=urls)
    assert text.startswith(f"{FIRST} could not be downloaded")
    assert f"{empty.url}{FIRST}: HTTP 404 Not Found" in text
    assert f"{silent.url}{FIRST}: timed out" in text
    assert f"{gone.url}{FIRST}: " in text and "refused" in text
    assert f"file:///nowhere/{FIRST}: not an http:// or https:// address" in text
    assert f"mnist.example/{FIRST}: not an http" in text
    assert f"http://[bad/{FIRST}: " in text
    assert "--data-dir" in text and "ANIMA_DATA" in text
    assert not list((cache / "mnist").iterdir())


def test_without_mirrors() -> None:
    assert "no mirrors" in message("mnist", mirrors=[])


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, published: dict[str, bytes], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    mirror = serve(published)
    text = message("mnist", mirrors=[mirror.url])
    assert f"{FIRST}: cannot be written (Not a directory)" in text and "XDG_CACHE_HOME" in text
    assert not mirror.asked


@pytest.mark.skipif(module.fcntl is None, reason="no file locks on this system")
def test_two_at_once_download_once(cache: Path, published: dict[str, bytes], serve: Serve) -> None:
    mirror = serve(published)
    mirror.pause = 0.05
    got: list[Data] = []
    tasks = [
        threading.Thread(target=lambda: got.append(load_data("mnist", mirrors=[mirror.url])))
        for _ in range(3)
    ]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert len(got) == 3 and len(mirror.asked) == 4
    all_is_well(got[0], cache, published)


def test_data_dir_is_never_downloaded_into(
    tmp_path: Path, published: dict[str, bytes], serve: Serve
) -> None:
    mirror = serve(published)
    assert "lacks" in message("mnist", tmp_path, mirrors=[mirror.url])
    assert not mirror.asked and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_registry_names_four_files_and_two_mirrors(name: str) -> None:
    source = PUBLISHED[name]
    assert sorted(source.sha256) == sorted(FILES.values())
    assert len(source.mirrors) == 2 and all(url.endswith("/") for url in source.mirrors)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.sha256.values())


PUBLISHED = dict(SOURCES)  # as it stands before any test replaces an entry
