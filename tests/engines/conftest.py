"""Graphs are kept in a folder of the tests."""

import pytest


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """Empty at first; a model's graph is traced once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))
