"""Operators of mmcv that have no implementation here. Each one exists and raises when it is called."""

from collections.abc import Callable
from typing import NoReturn

# In the order of mmcv/ops: all other names that mmcv 2.1.0 asks of its extension module.
UNSUPPORTED_OPERATORS = tuple(
    [
        "active_rotated_filter_forward",
        "active_rotated_filter_backward",
        "assign_score_withk_forward",
        "assign_score_withk_backward",
        "ball_query_forward",
        "stack_ball_query_forward",
        "bezier_align_forward",
        "bezier_align_backward",
        "bias_act",
        "box_iou_quadri",
        "nms_quadri",
        "chamfer_distance_forward",
        "chamfer_distance_backward",
        "contour_expand",
        "convex_iou",
        "convex_giou",
        "correlation_forward",
        "correlation_backward",
        "diff_iou_rotated_sort_vertices_forward",
        "filtered_lrelu",
        "filtered_lrelu_act_",
        "furthest_point_sampling_forward",
        "furthest_point_sampling_with_dist_forward",
        "fused_bias_leakyrelu",
        "gather_points_forward",
        "gather_points_backward",
        "group_points_forward",
        "group_points_backward",
        "stack_group_points_forward",
        "stack_group_points_backward",
        "iou3d_boxes_overlap_bev_forward",
        "iou3d_nms3d_forward",
        "iou3d_nms3d_normal_forward",
        "knn_forward",
        "min_area_polygons",
        "pixel_group",
        "points_in_boxes_part_forward",
        "points_in_boxes_cpu_forward",
        "points_in_boxes_all_forward",
        "points_in_polygons_forward",
        "prroi_pool_forward",
        "prroi_pool_backward",
        "prroi_pool_coor_backward",
        "riroi_align_rotated_forward",
        "riroi_align_rotated_backward",
        "roiaware_pool3d_forward",
        "roiaware_pool3d_backward",
        "roipoint_pool3d_forward",
        "rotated_feature_align_forward",
        "rotated_feature_align_backward",
        "dynamic_point_to_voxel_forward",
        "dynamic_point_to_voxel_backward",
        "get_indice_pairs_2d_forward",
        "get_indice_pairs_3d_forward",
        "get_indice_pairs_4d_forward",
        "get_indice_pairs_2d_backward",
        "get_indice_pairs_3d_backward",
        "indice_conv_forward",
        "indice_conv_backward",
        "fused_indice_conv_forward",
        "indice_maxpool_forward",
        "indice_maxpool_backward",
        "three_interpolate_forward",
        "three_interpolate_backward",
        "three_nn_forward",
        "tin_shift_forward",
        "tin_shift_backward",
        "upfirdn2d",
        "dynamic_voxelize_forward",
        "hard_voxelize_forward",
    ]
)


def make_unsupported(name: str) -> Callable[..., NoReturn]:
    """Return a function that raises ``NotImplementedError`` with the operator's name and what to install."""

    def unsupported(*args, **kwargs) -> NoReturn:
        raise NotImplementedError(
            f"The operator {name} of mmcv has no PyTorch implementation in mmcv-torchops. Install a compiled mmcv "
            "2.1.0, which takes precedence: pip uninstall mmcv-lite, then see "
            "https://mmcv.readthedocs.io/en/latest/get_started/installation.html"
        )

    unsupported.__name__ = unsupported.__qualname__ = name
    return unsupported
