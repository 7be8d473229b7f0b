"""The script for QuPath: it cannot be run here, so it is held to what can be seen of it."""

from __future__ import annotations

import re

import pytest

from microtome.storage.qupath_script import NAME, write_load_script


def test_it_names_its_folder_and_leaves_no_place_to_fill_in(tmp_path):
    text = write_load_script(tmp_path).read_text()
    assert f"'{tmp_path.resolve()}'" in text
    assert "@" not in text.replace(str(tmp_path), "")


@pytest.mark.parametrize("name", ["it's here", "a$b{c}", "back\\slash", "größe"])
def test_any_folder_is_one_text_that_nothing_is_filled_into(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    text = write_load_script(folder).read_text()
    (quoted,) = re.findall(r"\[('(?:[^'\\]|\\.)*'), buildPathInProject", text)
    # As Groovy reads what stands in single quotes.
    assert re.sub(r"\\(.)", r"\1", quoted[1:-1]) == str(folder.resolve())


def test_brackets_and_quotes_match(tmp_path):
    text = re.sub(r"//.*", "", write_load_script(tmp_path).read_text())
    text = re.sub(r"'(?:[^'\\\n]|\\.)*'", "", text)
    text = re.sub(r'"(?:[^"\\\n]|\\.)*"', "", text)
    assert "'" not in text
    assert '"' not in text
    stack = []
    for sign in re.findall(r"[(){}\[\]]", text):
        if sign in "([{":
            stack.append(sign)
        else:
            assert stack.pop() + sign in ("()", "[]", "{}")
    assert stack == []


def test_it_looks_for_every_file_that_is_written_for_qupath(tmp_path):
    text = write_load_script(tmp_path).read_text()
    (kinds,) = re.findall(r"def files = \[(.*?)\]", text)
    # As heatmap, camel predict, cluster and tissue name them.
    assert kinds == "'', '.tiles', '.clusters', '.tissue'"
    assert "['.geojson.gz', '.geojson']" in text
    assert NAME == "load_results.groovy"
