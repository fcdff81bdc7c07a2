"""mmdet's 1x schedule of 12 epochs with the optimizer of section 4.2."""

_base_ = ["mmdet::_base_/schedules/schedule_1x.py", "./adamw.py"]

optim_wrapper = dict(_delete_=True, **_base_.adamw)
