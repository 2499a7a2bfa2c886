"""pytest tests/core/models/test_gguf_header.py — absurd and torn GGUF headers are refused by name, at once and without memory."""

import os
import resource
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_core.errors import ModelError
from opsd_core.models.storage.gguf import load_gguf
from opsd_core.models.storage.gguf_header import read_gguf_header
from tests.core.models.test_gguf import SHAPES, VOCABULARY, write


def text(word):
    return struct.pack("<Q", len(word)) + word


def value(name, kind, content):
    return text(name) + struct.pack("<I", kind) + content


def number(name, content):
    return value(name, 4, struct.pack("<I", content))


def array(kind, count, content=b""):
    return struct.pack("<IQ", kind, count) + content


def tensor(name=b"t", shape=(32,), kind=0, place=0, dimensions=None):
    count = struct.pack("<I", len(shape) if dimensions is None else dimensions)
    return text(name) + count + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, place)


def made(values=(), tensors=(), data=b"\0" * 256, counts=None, version=3, mark=b"GGUF"):
    num_tensors, num_values = counts or (len(tensors), len(values))
    head = mark + struct.pack("<IQQ", version, num_tensors, num_values) + b"".join(values) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


LLAMA = value(b"general.architecture", 8, text(b"llama"))
WIDE = number(b"llama.embedding_length", 4096)
FILES = {
    "more values than bytes": (made(counts=(0, 2**63)), "9,223,372,036,854,775,808 values, which"),
    "more tensors than bytes": (made(counts=(2**63, 0)), "9,223,372,036,854,775,808 tensors, which"),
    "a text of 2**63": (made([struct.pack("<Q", 2**63)]), "name of a value would have 9,223"),
    "a text beyond the end": (made([value(b"a", 8, struct.pack("<Q", 5000) + b"x")]), "'a' at byte .* more than there are"),
    "an array of 2**60": (made([value(b"a", 9, array(4, 2**60))]), "array 'a' has 1,152,921,504,606,846,976 elements"),
    "an array beyond the end": (made([value(b"a", 9, array(10, 1000))]), "array 'a' at byte .* more than there are"),
    "arrays that are many together": (made([value(b"a%d" % i, 9, array(0, 10**6)) for i in range(3)]), "more than there are"),
    "nested arrays": (made([value(b"a", 9, array(9, 1) * 50_000)]), "of type 9, which GGUF does not know here"),
    "an array of empty texts": (made([value(b"a", 9, array(8, 2**40))]), "1,099,511,627,776 elements"),
    "a token of a megabyte": (made([value(b"a", 9, array(8, 1, text(b"x" * 10**6)))]), "1,000,000 bytes, at most 1,024"),
    "an unknown type": (made([value(b"a", 99, b"0000")]), "of type 99"),
    "a value twice": (made([LLAMA, LLAMA]), "'general.architecture' stands twice"),
    "bytes that are no text": (made([value(b"\xff\xfe", 4, b"0000")]), "is not UTF-8"),
    "version 0": (made(version=0), "version is 0"),
    "version 99": (made(version=99), "version is 99"),
    "no architecture": (made(), "no general.architecture"),
    "an architecture that is a number": (made([number(b"general.architecture", 7)]), "no general.architecture"),
    "alignment 0": (made([LLAMA, number(b"general.alignment", 0)]), "alignment=0 is no power of two"),
    "alignment 33": (made([LLAMA, number(b"general.alignment", 33)]), "alignment=33"),
    "alignment 2**31": (made([LLAMA, number(b"general.alignment", 2**31)]), "alignment=2147483648"),
    "alignment as text": (made([LLAMA, value(b"general.alignment", 8, text(b"32"))]), "alignment='32'"),
    "a tensor twice": (made([LLAMA], [tensor(), tensor(place=128)]), "tensor 't' stands twice"),
    "tensors in one place": (made([LLAMA], [tensor(b"t"), tensor(b"u")]), "tensor 'u' begins at byte 0 .*inside another"),
    "an unaligned tensor": (made([LLAMA], [tensor(place=7)]), "begins at byte 7"),
    "a negative place": (made([LLAMA], [tensor(place=2**64 - 32)]), "ends at byte 18,446"),
    "a tensor beyond the end": (made([LLAMA], [tensor(shape=(2**40,))]), "ends at byte 4,398"),
    "a shape that overflows": (made([LLAMA], [tensor(shape=(2**32, 2**32, 2**32))]), "ends at byte"),
    "a shape of nothing": (made([LLAMA], [tensor(shape=(0,))]), r"shape \[0\]"),
    "no dimensions": (made([LLAMA], [tensor(shape=())]), "0 dimensions"),
    "2**31 dimensions": (made([LLAMA], [tensor(dimensions=2**31)]), "2147483648 dimensions"),
    "a tensor of an unknown type": (made([LLAMA], [tensor(kind=200)]), "tensor 't' is of type 200"),
    "half a block": (made([LLAMA], [tensor(shape=(5,), kind=2)]), r"shape \[5\], which its type, in blocks of 32"),
    "10**9 layers": (made([LLAMA, number(b"llama.block_count", 10**9)], [tensor()]), "llama.block_count=1,000,000,000 cannot be"),
    "10**9 wide": (made([LLAMA, number(b"llama.embedding_length", 10**9)], [tensor()]), "embedding_length=1,000,000,000"),
    "10**9 words": (made([LLAMA, WIDE, number(b"llama.vocab_size", 10**9)], [tensor()]), "vocab_size=1,000,000,000"),
    "another format": (b"PK\x03\x04" + bytes(100), "is no GGUF file"),
    "nothing": (b"", "is no GGUF file"),
    "its mark alone": (b"GGUF", "version at byte 4"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_absurd_header_is_refused_by_what_is_wrong(tmp_path, name):
    content, said = FILES[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ModelError, match=said) as caught:
        load_gguf(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert time.process_time() - begin < 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "a.gguf").read_bytes()


def test_a_header_says_what_the_file_holds(tmp_path, whole):
    (tmp_path / "a.gguf").write_bytes(whole)
    found = read_gguf_header(tmp_path / "a.gguf")
    assert found.values["llama.embedding_length"] == 32 and found.values["tokenizer.ggml.tokens"] == len(VOCABULARY)
    assert {name: shape[::-1] for name, shape in found.shapes.items()} == SHAPES


def test_a_file_that_ends_anywhere_is_refused(tmp_path, whole):
    path = tmp_path / "a.gguf"
    for place in range(0, len(whole) - 1, len(whole) // 60):
        path.write_bytes(whole[:place])
        with pytest.raises(ModelError, match=r"is no GGUF file|cannot be read as GGUF"):
            load_gguf(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bytes_changed_anywhere_in_the_header_never_raise_anything_else(tmp_path_factory, whole, data):
    path = tmp_path_factory.mktemp("changed") / "a.gguf"
    end = whole.index(b"blk.0.ffn_norm.weight") + 60
    content = bytearray(whole)
    for place in data.draw(st.lists(st.integers(4, end), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    begin = time.process_time()
    try:
        read_gguf_header(path)
    except ModelError as error:
        assert "GGUF" in str(error)
    assert time.process_time() - begin < 2


def test_random_bytes_behind_the_mark_are_refused(tmp_path):
    for _ in range(20):
        (tmp_path / "a.gguf").write_bytes(b"GGUF" + os.urandom(4000))
        with pytest.raises(ModelError, match="cannot be read as GGUF"):
            load_gguf(tmp_path / "a.gguf")
