"""Focal losses of sigmoid and softmax classifiers.

Logarithms are clamped, and probabilities of 1 leave nothing of 1 - p, as in mmcv/ops/csrc/common/cuda. Losses and
derivatives are computed in float32 for half and bfloat16.
Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
"""

import torch
from torch import Tensor

from .computing import as_float, untraced

# The least probability whose logarithm is taken.
MIN_PROBABILITY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss (N, C) of the logits ``input`` (N, C) into ``output``.

    ``target`` (N,) is the class; a row of any other number, such as C for background, has no positive class. ``weight``
    is empty, or (C,) for the rows of a class; rows of no class have weight 1.
    """
    is_class, correct, wrong = _compare_sigmoid(input, target)
    loss = wrong.pow(gamma) * correct.clamp(min=MIN_PROBABILITY).log()
    output.copy_(loss * torch.where(is_class, -alpha, alpha - 1) * _weigh_rows(weight, target)[:, None])


@untraced
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative (N, C) of each loss by its logit into ``grad_input``. Arguments as in the forward."""
    is_class, correct, wrong = _compare_sigmoid(input, target)
    grad = wrong.pow(gamma) * (wrong - gamma * correct * correct.clamp(min=MIN_PROBABILITY).log())
    grad_input.copy_(grad * torch.where(is_class, -alpha, 1 - alpha) * _weigh_rows(weight, target)[:, None])


def _compare_sigmoid(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (N, C): where the column is the target, the probability of the right answer, and of the wrong one."""
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    positive = as_float(input).sigmoid()
    negative = 1 - positive
    return is_class, torch.where(is_class, positive, negative), torch.where(is_class, negative, positive)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss (N,) of the probabilities ``input`` (N, C) into ``output``.

    ``target`` (N,) is the class, and negative for rows to ignore. ``weight`` is empty, or (C,) for the rows of a class.
    """
    correct = _gather_correct(input, target)
    loss = -alpha * (1 - correct).pow(gamma) * correct.clamp(min=MIN_PROBABILITY).log()
    output.copy_((loss * _weigh_rows(weight, target)).masked_fill(target < 0, 0))


@untraced
def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative (N, C) of each row's loss by its logits into ``grad_input``.

    ``input`` (N, C) are the probabilities. ``buff`` (N,) receives the derivative by the logarithm of the right class's
    probability. The other arguments are those of the forward function.
    """
    correct = _gather_correct(input, target)
    wrong = (1 - correct).clamp(min=MIN_PROBABILITY)
    log_term = gamma * wrong.pow(gamma - 1) * correct * correct.clamp(min=MIN_PROBABILITY).log()
    grad = alpha * (log_term - wrong.pow(gamma)) * _weigh_rows(weight, target)
    grad = grad.masked_fill(target < 0, 0)
    buff.copy_(grad)
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(grad[:, None] * (is_class.to(grad.dtype) - input))


def _gather_correct(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return the probability (N,) of each row's target class, and of class 0 for negative targets."""
    return as_float(probabilities).gather(1, target.clamp(min=0)[:, None])[:, 0]


def _weigh_rows(weight: Tensor, target: Tensor) -> Tensor:
    """Return the weight (N,) of each row's class; 1 without weights and for targets that are no class."""
    if weight.numel() == 0:
        return as_float(weight).new_ones(1)
    is_class = (target >= 0) & (target < len(weight))
    return torch.where(is_class, as_float(weight)[target.clamp(0, len(weight) - 1)], 1)
