"""Losses that the four codebases lack."""

from torch import Tensor, nn

from van_mm.registry import MODELS


@MODELS.register_module()
class BinaryDiceLoss(nn.Module):
    """Dice loss of a one-channel prediction, over all pixels of a batch: ``1 - 2 sum(p g) / (sum(p) + sum(g))``.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        eps (float): Added to both sides of the fraction. Defaults to 1e-5.
        loss_name (str): Defaults to 'loss_dice'.
    """

    def __init__(self, loss_weight: float = 1.0, eps: float = 1e-5, loss_name: str = "loss_dice") -> None:
        super().__init__()
        self.loss_weight, self.eps, self.loss_name = loss_weight, eps, loss_name

    def forward(self, logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
        """Loss of ``logits`` (N, 1, H, W) for ``label`` (N, H, W) of 0, 1 and ``ignore_index``."""
        known = (label != ignore_index).to(logits)
        if weight is not None:
            known = known * weight
        guess, truth = logits.squeeze(1).sigmoid() * known, (label == 1).to(logits) * known
        dice = (2 * (guess * truth).sum() + self.eps) / (guess.sum() + truth.sum() + self.eps)
        return self.loss_weight * (1 - dice)
