"""Focal losses, against loops in double precision. mmcv compiles them for accelerators only."""

import math

import pytest
import torch
from mmcv.ops import SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from torchops_testing import DEVICES, assert_same, compute_with_gradients, run_torchops

ALPHA, GAMMA = 0.25, 2.0
FLT_MIN = 2.0**-126


def make_case(rows: int = 12, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, targets with all classes and ``classes`` for the background, and weights of the classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    return (
        logits,
        torch.arange(rows) % (classes + 1),
        torch.rand(classes, generator=generator, dtype=torch.float64) + 0.5,
    )


def compute_reference_sigmoid(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, gamma: float
) -> torch.Tensor:
    losses = torch.zeros_like(logits)
    for row, target in enumerate(targets.tolist()):
        for column, logit in enumerate(logits[row].tolist()):
            p = 1 / (1 + math.exp(-logit))
            if target == column:
                loss = -ALPHA * (1 - p) ** gamma * math.log(max(p, FLT_MIN))
            else:
                loss = -(1 - ALPHA) * p**gamma * math.log(max(1 - p, FLT_MIN))
            losses[row, column] = loss * (weight[target] if weight is not None and target < len(weight) else 1)
    return losses


def compute_reference_softmax(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, gamma: float
) -> torch.Tensor:
    losses = torch.zeros_like(logits[:, 0])
    for row, target in enumerate(targets.tolist()):
        if target >= 0:
            exponentials = [math.exp(logit) for logit in logits[row].tolist()]
            p = exponentials[target] / sum(exponentials)
            losses[row] = -ALPHA * (1 - p) ** gamma * math.log(max(p, FLT_MIN))
            losses[row] *= 1 if weight is None else weight[target]
    return losses


LOSSES = [(sigmoid_focal_loss, compute_reference_sigmoid), (softmax_focal_loss, compute_reference_softmax)]


def make_targets(loss, targets: torch.Tensor, classes: int = 5) -> torch.Tensor:
    """Return the targets, with the background as rows to ignore for the softmax."""
    return torch.where(targets == classes, -1, targets) if loss is softmax_focal_loss else targets


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "reference"), LOSSES)
def test_the_losses_equal_the_reference(loss, reference, weighted, gamma, dtype, device):
    logits, targets, weight = make_case()
    targets, weight = make_targets(loss, targets), weight if weighted else None
    losses = reference(logits, targets, weight, gamma)
    for reduction, expected in ("none", losses), ("sum", losses.sum()), ("mean", losses.sum() / len(logits)):
        arguments = (
            logits.to(device, dtype),
            targets.to(device),
            gamma,
            ALPHA,
            weight if weight is None else weight.to(device, dtype),
        )
        assert_same(run_torchops(loss, *arguments, reduction).cpu(), expected.to(dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_the_gradients_are_those_of_the_losses(loss, reduction, weighted, gamma, device):
    logits, targets, weight = (tensor.to(device) for tensor in make_case())
    arguments = make_targets(loss, targets), gamma, ALPHA, weight if weighted else None, reduction
    logits.requires_grad_()
    assert run_torchops(torch.autograd.gradcheck, lambda x: loss(x, *arguments), (logits,))


def test_the_sigmoid_loss_without_reduction_has_the_gradient_of_each_element():
    logits, targets, _ = make_case()
    assert run_torchops(
        torch.autograd.gradcheck,
        lambda x: sigmoid_focal_loss(x, targets, GAMMA, ALPHA, None, "none"),
        (logits.requires_grad_(),),
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_extreme_logits_have_clamped_losses_and_finite_gradients(loss, gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]])
    value, (gradient, _) = run_torchops(
        compute_with_gradients,
        lambda x, target: loss(x, target, gamma, ALPHA, None, "sum"),
        logits,
        torch.tensor([0, 0]),
    )
    largest = -math.log(FLT_MIN) * (1 if loss is sigmoid_focal_loss else ALPHA)
    assert_same(value, torch.tensor(largest))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_no_rows_have_no_loss(loss):
    value, (gradient, _) = run_torchops(
        compute_with_gradients,
        lambda x, target: loss(x, target, GAMMA, ALPHA, None, "sum"),
        torch.zeros(0, 5),
        torch.zeros(0, dtype=torch.long),
    )
    assert value == 0
    assert gradient.shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_half_types_keep_their_type_and_precision(loss, dtype):
    logits, targets, _ = make_case()
    targets = make_targets(loss, targets)

    def compute(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(x, targets, GAMMA, ALPHA, None, "sum")

    value, gradients = run_torchops(compute_with_gradients, compute, logits.to(dtype).T.contiguous().T)
    expected, expected_gradients = run_torchops(compute_with_gradients, compute, logits.to(dtype).double())
    assert value.dtype == dtype
    assert gradients[0].dtype == dtype
    assert_same(value.double(), expected, 0.02, 0.02)
    assert_same(gradients[0].double(), expected_gradients[0], 0.02, 0.02)


@pytest.mark.parametrize(
    ("module", "loss"), [(SigmoidFocalLoss, sigmoid_focal_loss), (SoftmaxFocalLoss, softmax_focal_loss)]
)
def test_the_modules_work_in_compiled_functions(module, loss):
    logits, targets, weight = make_case()
    targets = make_targets(loss, targets)
    layer = module(GAMMA, ALPHA, weight)
    expected = run_torchops(compute_with_gradients, layer, logits, targets)
    compiled = torch.compile(layer, backend="aot_eager")
    assert_same(run_torchops(compute_with_gradients, compiled, logits, targets), expected)


def test_softmax_targets_beyond_the_classes_raise():
    logits, targets, _ = make_case()
    with pytest.raises((IndexError, RuntimeError)):
        run_torchops(softmax_focal_loss, logits, targets)
