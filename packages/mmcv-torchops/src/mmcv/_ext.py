"""The module that ``mmcv.ops`` imports its operators from. A compiled ``_ext`` in the same folder takes precedence."""

from mmcv_torchops import *  # noqa: F403
