import os

import pytest

from intermoe.errors import UserError
from intermoe.yaml_files import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, read_mapping, values_in


def refused(content: bytes, folder) -> str:
    file = folder / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_mapping(file)
    return str(caught.value).removeprefix(str(file))


def test_a_mapping_comes_with_its_text(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("\ufeffseed: 1  # of all\nmoe: {experts: 4}\n", "utf-8")
    assert read_mapping(file)[1] == {"seed": 1, "moe": {"experts": 4}}
    file.write_text("# größer\nseed: 1\n", "utf-8")
    assert read_mapping(file) == ("# größer\nseed: 1\n", {"seed": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": holds no keys"),
        (b"- 3", ": holds no keys"),
        (b"just text", ": holds no keys"),
        (b"a: [", ":1: not valid YAML: expected the node content, but found '<stream end>'"),
        (b"a: 1\nb: c: d", ":2: not valid YAML: mapping values are not allowed here"),
        (
            b"a: 1\n---\nb: 2",
            ":2: not valid YAML: expected a single document in the stream, but found another document",
        ),
        (b"a: 1\nb: 2\na: 3", ":3: not valid YAML: key 'a' is given twice"),
        (b"m: &m {a: 1}\nn: {<<: *m, a: 2, a: 3}", ":2: not valid YAML: key 'a' is given twice"),
        (b"seed: 1\nday: 2020-13-45", ":2: not valid YAML: '2020-13-45' does not fit its type (!!timestamp)"),
        (b"day: !!timestamp x", ":1: not valid YAML: 'x' does not fit its type (!!timestamp)"),
        (b"skeleton: !!int x", ":1: not valid YAML: 'x' does not fit its type (!!int)"),
        (b"seed: " + b"1" * 5000, f":1: not valid YAML: {'1' * 40!r} does not fit its type (!!int)"),
        (
            b"a: !!python/object/apply:os.system [x]",
            (
                ":1: not valid YAML: could not determine a constructor for the tag"
                " 'tag:yaml.org,2002:python/object/apply:os.system'"
            ),
        ),
        (
            b"\xff\xfe\x00",
            (
                ": not valid YAML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
                " (allowed: text in UTF-8)"
            ),
        ),
    ],
)
def test_what_is_not_yaml_is_told_in_one_line_with_its_place(tmp_path, content, message):
    assert refused(content, tmp_path) == message


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError) as caught:
        read_mapping(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path / 'none.yaml'}: no such file"


def test_values_may_be_nested_so_deeply_and_no_deeper(tmp_path):
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert values_in(deep) == values_in(f"[{deep[1:-1]}]")
    for depth in (MAX_DEPTH + 1, 1000, 100_000):
        message = f":2: is nested too deeply (allowed: {MAX_DEPTH} lists and mappings in each other)"
        assert refused(b"a:\n " + b"[" * depth, tmp_path) == message


def test_aliases_count_as_what_they_stand_for(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    message = f":4: holds too many values (allowed: {MAX_VALUES}, aliases (*name) written out)"
    assert refused("\n".join(lines).encode(), tmp_path) == message
    assert len(values_in("\n".join(lines[:3]))["a2"]) == 10


def test_a_value_that_holds_itself_is_refused(tmp_path):
    assert refused(b"a: 1\nb: &b\n  c: [*b]", tmp_path) == ":3: a value holds itself"


def test_a_text_that_nobody_wrote_is_refused_unread(tmp_path):
    length = MAX_CHARACTERS + 1
    message = f": has {length} characters (allowed: up to {MAX_CHARACTERS} of YAML)"
    assert refused(b"#" * length, tmp_path) == message


def test_a_pipe_a_device_and_a_file_of_any_size_are_refused_unread(tmp_path):
    file = tmp_path / "a.yaml"
    for put in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        put(file)
        with pytest.raises(UserError) as caught:
            read_mapping(file)
        assert str(caught.value) == f"{file}: cannot be read: not a regular file"
        file.unlink()
    with file.open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(UserError) as caught:
        read_mapping(file)
    assert str(caught.value) == f"{file}: has {10**12} bytes (allowed: up to {4 * MAX_CHARACTERS} of YAML)"


def test_half_a_character_is_refused(tmp_path):
    assert refused(b'a: 1\n"\\ud800": 1', tmp_path) == ":2: holds half a character (a surrogate)"


def test_what_is_merged_may_be_given_anew():
    assert values_in("m: &m {a: 1, b: 2}\nn: &n {<<: *m, a: 3}\no: {<<: *n, a: 4}") == {
        "m": {"a": 1, "b": 2},
        "n": {"a": 3, "b": 2},
        "o": {"a": 4, "b": 2},
    }
