"""Reading XML: encodings, namespaces, and what is refused."""

from __future__ import annotations

import os

import pytest

from ivtuning.errors import UserError
from ivtuning.utils.xml import read_xml

BODY = "<annotation><folder>画像</folder></annotation>"
READ = {
    "plain": BODY.encode(),
    "mark": b"\xef\xbb\xbf" + BODY.encode(),
    "utf-16": BODY.encode("utf-16"),
    "utf-16 declared": f'<?xml version="1.0" encoding="UTF-16"?>{BODY}'.encode("utf-16"),
    "gbk": f'<?xml version="1.0" encoding="GBK"?>{BODY}'.encode("gbk"),
    "shift_jis": f"<?xml version='1.0' encoding='Shift_JIS'?>{BODY}".encode("shift_jis"),
    "utf-8 that says utf-16": f'<?xml version="1.0" encoding="utf-16"?>{BODY}'.encode(),
    "line ends of a Mac": BODY.replace("><", ">\r<").encode(),
}
REFUSED = {
    "undeclared": (BODY.encode("gbk"), r"a\.xml:1: not UTF-8"),
    "declared wrongly": (
        f"<?xml version='1.0' encoding='UTF-8'?>\n{BODY}".encode("gbk"),
        r"a\.xml:2: not UTF-8",
    ),
    "unknown": (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding 'klingon'"),
    "no text": (b'<?xml version="1.0" encoding="zip"?><annotation/>', "unknown encoding 'zip'"),
    "entities": (b'<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;">]><a>&c;</a>', "remove its DOCTYPE"),
    "a file": (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "remove its DOCTYPE"),
    "cut": (b"<annotation>\n<object>", r"a\.xml:2: not readable XML"),
    "empty": (b"", r"a\.xml:1: not readable XML"),
    "binary": (bytes(range(256)), r"a\.xml:\d+: "),
}


@pytest.mark.parametrize("case", READ)
def test_encodings(case, tmp_path):
    (tmp_path / "a.xml").write_bytes(READ[case])
    root = read_xml(tmp_path / "a.xml")
    assert root.tag == "annotation" and root.findtext("folder") == "画像"


def test_namespaces_and_case_do_not_count(tmp_path):
    (tmp_path / "a.xml").write_text(
        '<v:Annotation xmlns:v="http://a"><v:Object/><!-- --><?b?></v:Annotation>'
    )
    root = read_xml(tmp_path / "a.xml")
    assert root.tag == "annotation" and [child.tag for child in root] == ["object"]


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    content, message = REFUSED[case]
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_xml(tmp_path / "a.xml")
    assert "\n" not in str(error.value)


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(UserError, match="is not a file"):
        read_xml(tmp_path / "a.xml")
