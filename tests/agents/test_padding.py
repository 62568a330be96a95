"""On other devices than the CPU batches keep their padding: whatever it holds, it changes no gradient."""

from __future__ import annotations

import pytest
import torch
from gradients import a_batch, gradients
from padding import padding_stays
from pairs import EVERYWHERE, built, unmeasured

CASES = [
    pytest.param(*case, marks=() if case[1] == "maxent" or case[0] == "mdqn" else pytest.mark.slow)
    for case in EVERYWHERE
]


@pytest.mark.parametrize(("agent", "backward", "env", "sampler"), CASES)
def test_padding_changes_no_gradient(agent: str, backward: str, env: str, sampler: str) -> None:
    run = built(unmeasured(agent, backward, env, sampler))
    with pytest.MonkeyPatch.context() as patch:
        padding_stays(patch)
        batch = a_batch(run)  # as long as any trajectory may be
        padded = gradients(run, batch.copy())
    run = built(unmeasured(agent, backward, env, sampler))
    for one, other in zip(gradients(run, batch), padded, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * max(1.0, float(one.abs().max())))
