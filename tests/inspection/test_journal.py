import pytest

from semiscope.errors import SemiscopeError, SettingsError
from semiscope.inspection.journal import Journal

HEAD = {"model": "abc", "settings": {"batch": 4}}


def fill(folder, count):
    with Journal(folder, HEAD, resume=False) as journal:
        for i in range(count):
            journal.append({"file": f"{i}.png", "failed": "for the test"})


def test_rows_come_back_in_order(tmp_path):
    fill(tmp_path, 3)
    with Journal(tmp_path, HEAD, resume=True) as journal:
        assert [r["file"] for r in journal.rows()] == ["0.png", "1.png", "2.png"]
        journal.append({"file": "3.png", "failed": "x"})
        assert [r["file"] for r in journal.rows()][-1] == "3.png"


@pytest.mark.parametrize("lost", range(1, 42))
def test_a_torn_last_line_is_cut_off_wherever_it_is_torn(tmp_path, lost):
    fill(tmp_path, 3)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with Journal(tmp_path, HEAD, resume=True) as journal:
        assert len(journal) == 2
        journal.append({"file": "2.png", "failed": "for the test"})
    assert path.read_bytes() == whole


def test_a_torn_head_is_a_new_run(tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(b'{"mod')
    with Journal(tmp_path, HEAD, resume=True) as journal:
        assert len(journal) == 0 and list(journal.rows()) == []


def test_another_run_is_not_continued(tmp_path):
    fill(tmp_path, 1)
    with pytest.raises(SettingsError, match="another settings"):
        Journal(tmp_path, {**HEAD, "settings": {"batch": 8}}, resume=True)


def test_without_resume_the_journal_starts_anew(tmp_path):
    fill(tmp_path, 5)
    with Journal(tmp_path, HEAD, resume=False) as journal:
        assert len(journal) == 0 and list(journal.rows()) == []


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(SemiscopeError, match="cannot be written"):
        Journal(tmp_path / "out", HEAD, resume=False)
