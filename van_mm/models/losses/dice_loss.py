"""Dice loss for predictions with one channel."""

from torch import Tensor, nn

from van_mm.registry import MODELS


@MODELS.register_module()
class BinaryDiceLoss(nn.Module):
    """Dice loss of a prediction with one channel, ``1 - 2 sum(p g) / (sum(p) + sum(g))``.

    The sums run over all pixels of the batch, p is the sigmoid of the logits, and g is 1 for foreground pixels.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        eps (float): Added to numerator and denominator. Defaults to 1e-5.
        loss_name (str): Name of the loss in logs. mmengine sums the losses whose names contain 'loss'. Defaults to
            'loss_dice'.

    Example:
        >>> logits, label = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 8, 8))
        >>> BinaryDiceLoss()(logits, label).shape
        torch.Size([])
    """

    def __init__(self, loss_weight: float = 1.0, eps: float = 1e-5, loss_name: str = "loss_dice") -> None:
        super().__init__()
        self.loss_weight, self.eps, self.loss_name = loss_weight, eps, loss_name

    def forward(self, logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
        """Return the loss.

        Args:
            logits (Tensor): Prediction (N, 1, H, W).
            label (Tensor): Label map (N, H, W) of 0, 1 and ``ignore_index``.
            weight (Tensor, optional): Weight (N, H, W) of each pixel.
            ignore_index (int): Label of pixels that do not count. Defaults to 255.

        Returns:
            Tensor: A scalar.
        """
        mask = (label != ignore_index).to(logits)
        if weight is not None:
            mask = mask * weight
        prediction, target = logits.squeeze(1).sigmoid() * mask, (label == 1).to(logits) * mask
        dice = (2 * (prediction * target).sum() + self.eps) / (prediction.sum() + target.sum() + self.eps)
        return self.loss_weight * (1 - dice)
