"""Each term against MONAI or a closed form, and what training relies on: finite, per sample, fine without lumen."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss, SoftclDiceLoss
from pydantic import ValidationError

from coronary.config import PRESETS, Config, Loss
from coronary.losses import THINNING_STEPS, build_loss
from shared.config import apply_preset

EVERY = Loss(cross_entropy=1, cl_dice=1, skeleton_recall=1, soft_targets=True)
PER_SAMPLE = [EVERY, Loss(), Loss(dice_of_background=False), Loss(dice=0, cl_dice=1), Loss(dice=0, skeleton_recall=2)]


def sample(seed, n=2, size=12, lumen=0.1):
    """Random logits, soft occupancy and a skeleton."""
    rng = torch.Generator().manual_seed(seed)
    share = (torch.rand(n, 1, size, size, size, generator=rng) - 1 + lumen).clamp(0) / max(lumen, 1e-9)
    logits = 2 * torch.randn(n, 2, size, size, size, generator=rng)
    return logits, torch.cat([1 - share, share], 1), (share > 0.8).float()


def tube(n=1, size=24):
    """A straight vessel along x, five voxels wide, and its axis."""
    share, axis = torch.zeros(n, 1, size, size, size), torch.zeros(n, 1, size, size, size)
    share[:, :, :, 10:15, 10:15] = 1
    axis[:, :, :, 12, 12] = 1
    return torch.cat([1 - share, share], 1), axis


def confident(target):
    """Logits of a network that is right and sure."""
    return 30 * (target - 0.5)


@pytest.mark.parametrize(("background", "batch"), [*itertools.product([True, False], repeat=2)])
def test_dice_and_cross_entropy_are_monais(background, batch):
    logits, target, _ = sample(0)
    shape = {"include_background": background, "batch": batch, "softmax": True}
    names = {"dice_of_background": background, "dice_over_batch": batch}
    soft = Loss(**names, cross_entropy=1, soft_targets=True)
    torch.testing.assert_close(build_loss(soft)(logits, target, None), DiceCELoss(**shape)(logits, target))
    binary = (target[:, 1:] >= 0.5).float()
    expected = DiceLoss(**shape)(logits, torch.cat([1 - binary, binary], 1))
    torch.testing.assert_close(build_loss(Loss(**names))(logits, target, None), expected)


def test_cl_dice_is_monais_on_the_binary_lumen():
    logits, target, _ = sample(1, lumen=0.5)
    binary = (target >= 0.5).float()
    expected = SoftclDiceLoss(iter_=THINNING_STEPS, softmax=True, include_background=False)(logits, binary)
    torch.testing.assert_close(build_loss(Loss(dice=0, cl_dice=1))(logits, target, None), expected)


def test_skeleton_recall_is_the_share_of_the_skeleton_that_is_found():
    target, axis = tube()
    half = target.clone()
    half[:, 1, 12:] = 0
    half[:, 0] = 1 - half[:, 1]
    loss = build_loss(Loss(dice=0, skeleton_recall=1))
    assert loss(confident(half), target, axis).item() == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ValueError, match="skeleton"):
        loss(confident(half), target, None)


@pytest.mark.parametrize("config", [*PER_SAMPLE, Loss(dice_over_batch=True)])
def test_a_perfect_prediction_costs_next_to_nothing_and_a_wrong_one_much(config):
    target, axis = tube()
    loss = build_loss(config)
    assert loss(confident(target), target, axis).item() < 1e-3
    assert loss(confident(1 - target), target, axis).item() > 0.9


def test_a_vessel_thinner_than_a_voxel_pays_with_soft_targets():
    """At a share of 0.45 the reference's majority sees nothing; Dice and recall would rather have it found."""
    share, axis = tube()
    target = torch.cat([1 - 0.45 * share[:, 1:], 0.45 * share[:, 1:]], 1)
    for config in (Loss(soft_targets=True), Loss(dice=0, skeleton_recall=1)):
        loss = build_loss(config)
        assert loss(confident(share), target, axis) < loss(confident(target.round()), target, axis)
    majority = build_loss(Loss())
    assert majority(confident(share), target, axis) > majority(confident(target.round()), target, axis)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from(PER_SAMPLE))
def test_two_ranks_have_the_mean_and_the_gradient_of_one_batch(seed, config):
    logits, target, skeleton = sample(seed, lumen=0.3)
    loss = build_loss(config)
    logits.requires_grad_()
    together = loss(logits, target, skeleton)
    (wanted,) = torch.autograd.grad(together, logits)
    apart = torch.stack([loss(logits[i : i + 1], target[i : i + 1], skeleton[i : i + 1]) for i in range(2)]).mean()
    (got,) = torch.autograd.grad(apart, logits)
    torch.testing.assert_close(apart, together)
    torch.testing.assert_close(got, wanted, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lumen", [0.1, 0.0])
def test_finite_with_gradients_in_every_precision_with_and_without_lumen(dtype, lumen):
    logits, target, skeleton = sample(3, lumen=lumen)
    logits = (400 * logits).to(dtype).requires_grad_()  # far beyond what a network gives, within float16
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        value = build_loss(EVERY)(logits, target, skeleton)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_every_term_moves_the_network_towards_the_vessel():
    target, axis = tube()
    for term in ("dice", "cross_entropy", "cl_dice", "skeleton_recall"):
        logits = torch.zeros_like(target).requires_grad_()
        build_loss(Loss(**{"dice": 0, term: 1}))(logits, target, axis).backward()
        assert logits.grad[0, 1][axis[0, 0] > 0].max() < 0, term  # descent raises lumen on the axis


def test_a_loss_without_a_term_is_refused():
    with pytest.raises(ValidationError, match="every term's weight is zero"):
        Loss(dice=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_loss_of_every_preset_works(preset):
    config = apply_preset(Config(), PRESETS[preset])
    assert torch.isfinite(build_loss(config.loss)(*sample(5)))
