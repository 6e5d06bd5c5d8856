from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.config.yaml_files import parse_yaml, read_yaml, write_yaml
from distgan.errors import ConfigError

SCALARS = {
    "off": "off",
    "on": "on",
    "yes": "yes",
    "No": "No",
    "y": "y",
    "true": True,
    "False": False,
    "1e-4": 1e-4,
    "1E4": 1e4,
    ".5": 0.5,
    "5.": 5.0,
    "-3": -3,
    "+5": 5,
    "010": 10,
    "089": 89,
    "0x1F": 31,
    "1_000": "1_000",
    "1:30": "1:30",
    "2020-01-01": "2020-01-01",
    "~": None,
    "": None,
    "'1'": "1",
    "20 steps": "20 steps",
}


@pytest.mark.parametrize("text", SCALARS)
def test_words_are_words_and_numbers_are_numbers(text):
    value = parse_yaml(text, "here")
    assert value == SCALARS[text] and type(value) is type(SCALARS[text])


def test_infinity_and_nan_are_numbers_that_the_schema_refuses():
    assert parse_yaml("-.inf", "here") == -math.inf and math.isnan(parse_yaml(".nan", "here"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "here line 4: .*key 'c' is given twice"),
        ("a: {b: 1, b: 1}", "here line 1: .*'b' is given twice"),
        ("a: [1\nb: 2", "here line 2: not valid YAML"),
        ("? [1]\n: 2", "here line 1: .*a key must be a word"),
        ("{{}: 2}", "here line 1: .*a key must be a word"),
        ("a: !!python/object:os.system x", "here line 1: not valid YAML"),
        ("\x00", "here: not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(text, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_yaml(text, "here")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match="missing.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="must be a mapping of keys, and is a list"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


WORDS = st.sampled_from(
    ["off", "1e-4", "010", "true", "null", "~", "", "0x1F", "1:30", "é", " a", "#", "- a", ".5", "="]
)
VALUES = st.recursive(
    WORDS | st.text("abc01.e-: ", max_size=8) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text("ab1", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text("abc", min_size=1), VALUES, max_size=4))
def test_what_is_written_is_read_back(value):
    again = parse_yaml(write_yaml(value), "here")
    assert again == value and repr(again) == repr(value)
