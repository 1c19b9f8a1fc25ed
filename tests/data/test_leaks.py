"""Images of two sets at once."""

from ivtuning.data.leaks import shared_files


def test_shared_files_are_found_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = [
        {"file_name": "vis/1.png", "ir_file_name": "ir/1.png"},
        {"file_name": str(tmp_path / "vis/2.png")},
    ]
    test = [{"file_name": "vis/../vis/2.png", "ir_file_name": "ir/1.png"}, {"file_name": "other/1.png"}]
    assert shared_files(training, test) == [str(tmp_path / "vis/2.png"), str(tmp_path / "ir/1.png")]
    assert shared_files(training, test[1:]) == []
