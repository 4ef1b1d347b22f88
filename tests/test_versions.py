"""Only the last DeepSpeed with the compression library is taken."""

import pytest

from compress.errors import UserError
from compress.runtime import versions


def test_installed_one_is_taken():
    versions.check()


@pytest.mark.parametrize("found", ["0.19.7", "0.19.5", "1.0.0", None])
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
