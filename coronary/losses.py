"""The training loss: Dice, cross entropy, soft clDice and skeleton recall, each with its weight.

All terms compare softmax probabilities of two channels (background, lumen) with each voxel's share of lumen. They are
computed in float32 whatever precision the network ran in, and a patch without lumen is as good as any other. Every
term but Dice over the batch is a mean over samples, so that two processes with one sample each have the gradient of
one process with both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from monai.losses import DiceLoss, SoftclDiceLoss
from torch import Tensor

from coronary.config import Loss

Logits: TypeAlias = Float[Tensor, "n 2 x y z"]
Occupancy: TypeAlias = Float[Tensor, "n 2 x y z"]
Skeleton: TypeAlias = Float[Tensor, "n 1 x y z"]
Criterion: TypeAlias = Callable[[Logits, Occupancy, Skeleton | None], Tensor]

THINNING_STEPS = 5  # of soft clDice: no fewer than the widest vessel's radius has voxels (2.5 mm at 0.5 mm)
_SMOOTH = 1e-5  # of skeleton recall, as MONAI's Dice: a sample without skeleton counts as found


def build_loss(settings: Loss) -> Criterion:
    """Return the weighted sum of the terms as ``loss(logits, target, skeleton) -> scalar``.

    ``logits`` and ``target`` are ``n 2 x y z``, the target's channels each voxel's share of background and of lumen;
    ``skeleton`` is ``n 1 x y z``, 1 on the label's tubed skeleton, and may be None where skeleton recall has no
    weight.

    On soft targets Dice is lowest not at the share itself, but where all voxels with a share above half of the Dice
    reached are lumen: vessels thinner than a voxel are kept. (MONAI's ``soft_label`` would move the optimum to the
    share, and those vessels below the threshold.) Cross entropy is lowest at the share.

    Raises:
        ValueError: on a call without the skeleton that a term needs.
    """
    dice = DiceLoss(softmax=True, include_background=settings.dice_of_background, batch=settings.dice_over_batch)

    def loss(logits: Logits, target: Occupancy, skeleton: Skeleton | None = None) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.float()
            binary = functional.one_hot((target[:, 1] >= 0.5).long(), 2).movedim(-1, 1).float()
            target = target if settings.soft_targets else binary
            terms = [settings.dice * dice(logits, target)] if settings.dice else []
            if settings.cross_entropy:
                terms.append(settings.cross_entropy * functional.cross_entropy(logits, target))
            if settings.cl_dice:
                terms.append(settings.cl_dice * soft_cl_dice(logits, binary))
            if settings.skeleton_recall:
                if skeleton is None:
                    raise ValueError("skeleton recall needs the skeleton; the batch has none")
                terms.append(settings.skeleton_recall * skeleton_recall(logits, skeleton.float()))
            return torch.stack(terms).sum()

    return loss


def soft_cl_dice(logits: Logits, target: Occupancy) -> Tensor:
    """Return 1 - soft clDice of the lumen, the mean over samples (Shit et al., CVPR 2021).

    ``target`` is binary: on a soft one its own skeleton would lie in it by its share only, and a perfect prediction
    would not score zero.
    """
    criterion = SoftclDiceLoss(iter_=THINNING_STEPS, softmax=True, include_background=False)
    value: Tensor = criterion(logits, target)
    return value


def skeleton_recall(logits: Logits, skeleton: Skeleton) -> Tensor:
    """Return 1 - share of the tubed skeleton that is predicted lumen, the mean over samples.

    The loss of Kirchhoff et al. (ECCV 2024) for one class.
    """
    probability = logits.softmax(1)[:, 1:]
    axes = (1, 2, 3, 4)
    recall = ((probability * skeleton).sum(axes) + _SMOOTH) / (skeleton.sum(axes) + _SMOOTH)
    return (1 - recall).mean()
