"""The operators of docs/operators.md are what they say: linear, with SciPy's and scikit-image's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from documentation.fast_fits import fast_fits
from documentation.pages import ROOT, snippets
from scipy.signal import convolve
from skimage.transform import radon

SCRIPTS = [snippet.text for snippet in snippets(ROOT / "docs" / "operators.md") if snippet.kind == "python"]


@pytest.fixture(scope="module", params=SCRIPTS, ids=["tomography", "telescope"])
def names(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a script has defined when it has run."""
    defined: dict[str, Any] = {}
    with fast_fits():
        exec(request.param, defined)  # noqa: S102 - a script of the documents
    return defined


def test_a_script_has_some_thirty_lines_and_uses_the_public_names(names: dict[str, Any]) -> None:
    assert names["result"].image.shape == names["problem"].shape
    for script in SCRIPTS:
        assert len([line for line in script.splitlines() if line.strip()]) <= 42
        assert "from dipcli import" in script
        assert "from dipcli." not in script


def test_the_operator_is_linear(names: dict[str, Any]) -> None:
    operator, shape = names["operator"], names["problem"].shape
    x, z = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(operator(2 * x - 3 * z), 2 * operator(x) - 3 * operator(z), atol=1e-4)


def test_the_operator_has_the_values_of_the_libraries(names: dict[str, Any]) -> None:
    operator = names["operator"]
    if "Radon" in names:
        head, side = names["head"], names["SIDE"]
        theirs = radon(head[0].numpy().astype(float), names["DEGREES"].numpy()).T / side
        assert np.abs(operator(head)[0].numpy() - theirs).max() < 0.02 * theirs.max()
    else:
        sky = names["sky"]
        theirs = convolve(sky[0].numpy(), operator.psf.numpy(), mode="valid")
        assert np.allclose(operator(sky)[0].numpy(), theirs, atol=1e-4)
