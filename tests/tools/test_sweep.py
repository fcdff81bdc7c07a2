"""The sweep over upstream configs: every outcome, the report, and continuing an interrupted sweep."""

import json

OUTCOMES = {
    "mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py": "works",
    "mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py": "refused",
    "mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py": "does not build",
    "mmpretrain::blip/blip-base_8xb32_nlvr.py": "no backbone",
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py": "works",
}


def test_sweep(fork_tool, tmp_path):
    files = ("--json", tmp_path / "sweep.json", "--markdown", tmp_path / "any_config.md")
    sweep = ("misc/sweep_upstream", "--match", *OUTCOMES, "--backbone", "b0", "--jobs", 1, *files)
    sweep += ("--train-every", 5)
    done = fork_tool(*sweep)[0].wait()
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "sweep.json").read_text())
    assert {name: result["outcome"] for name, result in results.items()} == OUTCOMES
    assert results["mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py"]["step"] == "works"
    report = (tmp_path / "any_config.md").read_text()
    assert "| all | 5 | 3 | 2 | 66.7% | 1 of 1 |" in report and "1: ResNet has dcn inside of its stages" in report
    assert "`mmdet::dcn`: 0 of 1" in report and "`mmseg::segformer`: 1 of 1" in report

    results["mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"] = dict(outcome="refused", why="of old")
    (tmp_path / "sweep.json").write_text(json.dumps(results))
    done = fork_tool(*sweep)[0].wait()
    assert done.returncode == 0 and "| mmseg | 1 | 1 | 0 | 0.0% |" in done.stdout  # stored results are reused
    done = fork_tool("misc/sweep_upstream", "--match", "mmdet::nothing")[0].wait()
    assert done.returncode == 1 and "no config of an installed codebase" in done.stdout
