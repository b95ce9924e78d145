"""The lowest versions that the wheel is checked with."""

from __future__ import annotations

import pytest

from tools.check_wheel import lowest, requirements


def test_every_dependency_names_its_lowest_version() -> None:
    assert lowest("ray[data,default]>=2.60,<2.61") == "ray[data,default]==2.60"
    assert lowest("rouge-score>=0.1.2") == "rouge-score==0.1.2"
    assert len({lowest(each) for each in requirements()}) == len(requirements()) > 10
    for wrong in ("torch", "torch==2.6", "torch<3"):
        with pytest.raises(ValueError, match="names no lowest version"):
            lowest(wrong)
