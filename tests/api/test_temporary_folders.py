"""Folders that end with the service."""

from pathlib import Path

import pytest

from api import temporary_folders


def test_only_folders_of_services_that_were_killed_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metrics-killed", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    folders = []
    for _ in range(2):
        monkeypatch.setattr(temporary_folders, "_service_folders", {})  # of another service
        folders += [Path(temporary_folders.service_folder("metrics-", str(tmp_path))) for _ in range(2)]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    assert {*tmp_path.iterdir()} == {*folders, tmp_path / "others"}
