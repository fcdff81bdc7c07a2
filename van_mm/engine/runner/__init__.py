"""Runner and checkpoint files of a run, and the schedule of a resumed one."""
