"""Garbage is not collected while libraries are imported, and is collected afterwards as before."""

from __future__ import annotations

import gc

import pytest

from selfplay.core.garbage import no_collections


def test_collections_go_on_as_before() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), no_collections():
        assert not gc.isenabled()
        with no_collections():
            pass
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
