"""Files that are not what they are called: configs, arrays and pictures."""

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.faults.hostile import draws

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

MINE = """# @package _global_
epochs: 1
model:
  _target_: aectl.models.rbm.RBM
  hidden: &a 4
  steps: *a
"""

CONFIGS = [
    ("a: 1\na: 2\n", "line 2: found duplicate key a"),
    ("\ta: 1\n", "line 1: found character"),
    ("a: !!python/object:os.system x\n", "could not determine a constructor for the tag"),
    ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor for the tag"),
    ("- 1\n- 2\n", "is not a config: it must be a mapping"),
    ("3", "is not a config: it must be a mapping"),
    (b"\xff\xfe\x00\x01", "is not UTF-8 text"),
    (b"a: \x00", "is not valid YAML"),
    ("a: &a [*a]\n", "has a value that contains itself"),
    (LAUGHS, "expands to 4.9e+08 values, of at most 20,000"),
    ("a: " + "[" * 300 + "]" * 300, "is nested too deeply"),
    ("x: " + "y" * 300_000, "it has 300,003 bytes, of at most 200,000"),
    ("a: [1,\n", "line 2: expected the node content"),
    ("? [1]\n: 2\n", "found unhashable key"),
    ("1: 2\nnull: 3\n", "Incompatible key type"),
    ("---\na: 1\n---\nb: 2\n", "but found another document"),
    ("a: !!set {a}\n", "is not a supported primitive type"),
    ("<<: 3\n", "expected a mapping or list of mappings for merging"),
    ("%YAML 9.9\n---\na: 1", "found incompatible YAML document"),
    ("a: ${b}\nb: ${a}\n_target_: x", "Interpolation key 'b' not found"),
    ("_target_: aectl.models.rbm.RBM\nhidden: 4.5\n", "model.hidden=4.5: it must be a whole number"),
    ("_target_: aectl.models.rbm.RBM\nhidden: '4'\n", "model.hidden='4': it must be a whole number"),
    ("_target_: [1]\n", "model: cannot find '[1]'"),
    ("a: 2024-01-01\n", "model has no _target_"),
    ("defaults: [nope]\n_target_: x\n", "no model called 'nope'"),
    ("# @package _global_\nepochs: 2.7\n", "Value '2.7' of type 'float' could not be converted to Integer"),
    ("_target_: aectl.models.rbm.RBM\nhidden: 4\n", ""),
]
"""What a file of `--config-dir` says, and what is said of it; nothing of the last one, which is in order."""


def npy(array, shape=None, pickled=False):
    """Return a .npy file of an array, with another shape in its header if that is told."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    content = stream.getvalue()
    if shape is None:
        return content
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + array.tobytes()


def npz(**arrays):
    """Return a .npz file of arrays, or of members' bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else npy(array))
    return stream.getvalue()


class Evil:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


IMAGES = np.random.default_rng(0).integers(0, 255, (300, 8, 8), dtype=np.uint8)
LABELS = np.arange(300) % 3
FLOATS = IMAGES / np.float32(255)

ARRAYS = [
    (npy(IMAGES), ""),
    (npz(x=IMAGES, y=LABELS), ""),
    (b"", "is not a .npy or .npz file"),
    (npy(IMAGES)[:100], "is not a .npy or .npz file"),
    (npy(IMAGES)[:1000], "is not a .npy or .npz file"),
    (npz(x=IMAGES)[:-30], "is not a .npy or .npz file"),
    (npy(np.array([Evil()], dtype=object), pickled=True), "is not a .npy or .npz file"),
    (npz(x=npy(np.array([Evil()], dtype=object), pickled=True)), "is not a .npy or .npz file"),
    (pickle.dumps(Evil()), "is not a .npy or .npz file"),
    (npy(IMAGES, (10**9, 28, 28)), "is not a .npy or .npz file"),
    (npy(IMAGES, (2**62, 28, 28)), "is not a .npy or .npz file"),
    (npy(IMAGES, (-1, 8, 8)), "is not a .npy or .npz file"),
    (npz(x=npy(IMAGES, (10**10, 28, 28))), "is not a .npy or .npz file"),
    (npy(IMAGES[0]), "must be [N, H, W]"),
    (npy(IMAGES[:0]), "must be [N, H, W]"),
    (npy(IMAGES[:, :0]), "must be [N, H, W]"),
    (npy(IMAGES[:, :, :, None, None]), "must be [N, H, W]"),
    (npy(IMAGES.astype(np.int32)), "must be uint8, or floats"),
    (npy(IMAGES > 3), "must be uint8, or floats"),
    (npy(IMAGES.astype(np.complex64)), "must be uint8, or floats"),
    (npy(np.full((300, 8, 8), "x")), "must be uint8, or floats"),
    (npy(np.where(FLOATS > 0.9, np.float32("nan"), FLOATS)), "must lie in [0, 1], but go from nan to nan"),
    (npy(np.where(FLOATS > 0.9, np.float32("inf"), FLOATS)), "must lie in [0, 1], but go from 0 to inf"),
    (npy(FLOATS * 255), "must lie in [0, 1]"),
    (npz(x=IMAGES, y=LABELS[:5]), "must be integers ≥ -1"),
    (npz(x=IMAGES, y=LABELS.astype(float)), "must be integers ≥ -1"),
    (npz(x=IMAGES, y=LABELS - 2), "must be integers ≥ -1"),
    (npz(x=IMAGES, y=LABELS.astype(np.uint64) + 2**63), "must be integers ≥ -1"),
    (npz(x=IMAGES, y=LABELS + 2**40), "must be integers ≥ -1"),
    (npz(), "must be [N, H, W]"),
]
"""What a file for `dataset=arrays` holds, and what is said of it."""


def picture(size=(9, 9), mode="L", kind="PNG", colour=0):
    """Return an image file."""
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, kind)
    return stream.getvalue()


def vast(width, height):
    """Return a PNG whose header promises so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    return picture()[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + picture()[33:]


PICTURES = [
    (picture(), ""),
    (b"", "cannot be read as an image"),
    (picture()[:40], "cannot be read as an image"),
    (picture()[:-28], "cannot be read as an image"),
    (b"MZ" + bytes(100), "cannot be read as an image"),
    (vast(2**31 - 1, 2**31 - 1), "cannot be read as an image"),
    (vast(30_000, 30_000), "cannot be read as an image"),
    (vast(12_000, 12_000), "cannot be read as an image"),
    (vast(0, 0), "cannot be read as an image"),
    (picture(kind="GIF"), ""),
    (picture(mode="I;16"), ""),
    (picture(mode="CMYK", kind="TIFF"), ""),
]
"""What a file of a folder for `dataset=folder` holds, and what is said of it."""


def damaged(content):
    """Return a strategy of files like this one, cut or with some bytes changed."""
    size = len(content)
    places = st.lists(st.tuples(st.integers(0, min(size, 400) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    return st.one_of(
        st.integers(0, size).map(lambda end: content[:end]), places.map(lambda found: changed(content, found))
    )


def changed(content, found):
    """Return a file with bytes changed at some places."""
    new = bytearray(content)
    for place, value in found:
        new[place] = value
    return bytes(new)


def draws_of(content, name, count=60):
    """Return damaged copies of a file that depend on the name alone."""
    return draws(damaged(content), name, count)
