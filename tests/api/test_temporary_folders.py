"""Folders that end with the service."""

from pathlib import Path

from api.temporary_folders import make_folder


def test_only_folders_of_services_that_were_killed_are_deleted(tmp_path: Path) -> None:
    for name in ("metrics-killed", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    folders = [Path(make_folder("metrics-", str(tmp_path))) for _ in range(2)]
    assert {*tmp_path.iterdir()} == {*folders, tmp_path / "others"}
