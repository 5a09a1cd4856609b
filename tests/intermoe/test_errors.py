"""Messages are short and printable, whatever the file holds that they repeat."""

from intermoe.errors import LONGEST_MESSAGE, UserError, shortened


def test_what_repeats_a_file_is_cut_in_its_middle_and_the_file_is_named():
    error = UserError(f"unknown key {'k' * 5000!r}", where="a/b.yaml", allowed="x, y")
    start = "a/b.yaml: unknown key '"
    assert str(error).startswith(start + "k" * 170)
    assert str(error).endswith("kkk' (allowed: x, y)")
    assert len(str(error)) == len("a/b.yaml: ") + LONGEST_MESSAGE


def test_a_long_path_is_whole_and_leaves_room_for_what_is_wrong():
    path = "/".join(["folder"] * 100) + "/a.yaml"
    message = "holds no keys, " * 7
    assert str(UserError(message, where=path)) == f"{path}: {message.strip()}"


def test_control_characters_are_shown_and_not_sent_to_the_terminal():
    error = UserError("\x1b[31mred\x07 \u202eback\x00", where="a\udccb.yaml", allowed="\x9bb")
    assert str(error) == "a\ufffd.yaml: \ufffd[31mred\ufffd \ufffdback\ufffd (allowed: \ufffdb)"


def test_a_text_of_just_the_limit_stays():
    assert shortened("a" * LONGEST_MESSAGE) == "a" * LONGEST_MESSAGE
    assert len(shortened("a" * (LONGEST_MESSAGE + 1))) == LONGEST_MESSAGE
