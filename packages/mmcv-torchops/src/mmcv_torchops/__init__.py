"""The operators of ``mmcv._ext`` in PyTorch and torchvision, with the same names, arguments and results.

``mmcv/ops/*.py`` allocates the outputs and calls these functions, which write into them. They run on any
device of PyTorch.
"""

from .border_align import border_align_backward, border_align_forward
from .boxes import bbox_overlaps, box_iou_rotated
from .carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .info import get_compiler_version, get_compiling_cuda_version
from .masked_conv import masked_col2im_forward, masked_im2col_forward
from .ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from .nms import nms, nms_match, nms_rotated, softnms
from .psamask import psamask_backward, psamask_forward
from .roi_align import (
    roi_align_backward,
    roi_align_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
)
from .roi_pool import deform_roi_pool_backward, deform_roi_pool_forward, roi_pool_backward, roi_pool_forward
from .sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)
from .unsupported import UNSUPPORTED_OPERATORS, make_unsupported

globals().update({name: make_unsupported(name) for name in UNSUPPORTED_OPERATORS})

__all__ = [name for name, value in globals().items() if callable(value) and name != "make_unsupported"]
