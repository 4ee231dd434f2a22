import subprocess

from biflow import machine


def test_a_package_inside_anothers_repository_has_no_commit(tmp_path, monkeypatch):
    site = tmp_path / ".venv" / "lib" / "python3" / "site-packages" / "biflow"
    site.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "of somebody else"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(machine, "__file__", str(site / "machine.py"))
    assert machine.commit.__wrapped__() == "unknown"
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "src" / "biflow" / "machine.py"))
    assert len(machine.commit.__wrapped__()) == 12
