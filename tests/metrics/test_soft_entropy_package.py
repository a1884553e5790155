"""Agreement with the package of the soft estimator's author, given its points and its temperature."""

from __future__ import annotations

import pytest
import torch
from soft_entropy import SoftEntropyAccumulator

from lightning_interp.functional import reference_points, soft_entropy, vmf_temperature
from lightning_interp.metrics import SoftStructure


@pytest.mark.parametrize("dim", [8, 64, 512])
@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_agrees_on_identical_input(dim, backend):
    generator = torch.Generator().manual_seed(dim)
    labels = torch.randint(0, 12, (600,), generator=generator)
    z = torch.randn(600, dim, generator=generator) + 0.7 * torch.randn(12, dim, generator=generator)[labels]
    languages = labels % 3

    theirs = SoftEntropyAccumulator(d=dim, n_bins=100, backend=backend)
    points = reference_points(100, dim)
    theirs.w = points if backend == "torch" else points.numpy()
    theirs.temp = vmf_temperature(dim, 100)
    ours = SoftStructure(["word", "language"], min_count=1, shuffles=0)
    as_share = SoftStructure(["word", "language"], min_count=1, shuffles=0, regularity_unit="information")
    for part in torch.arange(600).split(250):
        given = {"word": labels[part], "language": languages[part]}
        theirs.update(
            z[part] if backend == "torch" else z[part].numpy(),
            labels=given if backend == "torch" else {name: value.numpy() for name, value in given.items()},
        )
        ours.update(z[part], labels=given)
        as_share.update(z[part], labels=given)
    values, shares, results = ours.compute(), as_share.compute(), theirs.results()

    # Their cosines are float32 below 64 dimensions too, where the temperature magnifies them.
    tolerance = 1e-5 if dim < 64 else 2e-6
    assert values["information"].item() == pytest.approx(theirs.entropy(), abs=tolerance)
    assert soft_entropy(z, points).item() == pytest.approx(theirs.entropy(), abs=tolerance)
    conditional = theirs.conditional_entropy()
    for name in ("word", "language"):
        assert values[f"regularity/{name}"].item() == pytest.approx(theirs.mutual_information()[name], abs=tolerance)
        assert shares[f"regularity/{name}"].item() == pytest.approx(results[f"regularity/{name}"], abs=tolerance)
        of_labels = torch.tensor([conditional[name][label] for label in sorted(conditional[name])])
        plain = SoftStructure([name], min_count=1, shuffles=0, average="plain")
        plain.update(z, labels={name: labels if name == "word" else languages})
        assert plain.compute()[f"variation/{name}"].item() == pytest.approx(of_labels.mean().item(), abs=tolerance)


def test_its_temperature_is_a_bound_that_ours_solves_exactly():
    from soft_entropy.temp_calibration import find_eps, sphere_temp_calibration

    assert find_eps(100, 4) == pytest.approx(0.0019, abs=1e-4)
    assert vmf_temperature(4, 100) == pytest.approx(sphere_temp_calibration(100, 4, mode="exact"), rel=1e-6)
    assert vmf_temperature(64, 100) == pytest.approx(find_eps(100, 64), rel=0.03)
