"""Only releases of DeepSpeed that the program is tested with are taken."""

import pytest

from compress.errors import UserError
from compress.runtime import versions


def test_installed_one_is_taken():
    versions.check()


@pytest.mark.parametrize("found", ["0.19.7", "0.19.5", "0.19.9", "1.0.0", None])
def test_any_other_is_refused(monkeypatch, found):
    monkeypatch.setattr(versions, "installed", lambda package: found)
    with pytest.raises(UserError, match=r"pip install deepspeed==0\.19\.6"):
        versions.check()


def test_a_local_build_of_the_same_release_is_taken(monkeypatch):
    monkeypatch.setattr(versions, "installed", lambda package: "0.19.6+cpu")
    versions.check()


def test_report_names_what_a_result_depends_on():
    assert {"python", "torch", "deepspeed", "transformers", "robust-compression"} <= set(
        versions.report()
    )


def test_the_library_is_asked_for_only_where_it_is(monkeypatch, tmp_path):
    """A later release keeps a stub of the package, without compress.py."""
    from importlib.machinery import ModuleSpec

    spec = ModuleSpec("deepspeed", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: spec)
    (tmp_path / "compression").mkdir()
    (tmp_path / "compression/__init__.py").touch()
    assert not versions.has_library()
    (tmp_path / "compression/compress.py").touch()
    assert versions.has_library()
