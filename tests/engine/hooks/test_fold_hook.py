"""Folding before a test gives the predictions of the model that is not folded."""

import pickle

import torch


def test_fold_with_averaged_weights(run_tool, demo_root, tmp_path):
    """The config has an EMAHook, whose copy of the weights is not folded."""
    config, demo = "cls/van_b0_in1k", ("--demo", "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    done = run_tool("train", config, *demo, "--demo-iters", 2, "--no-validate")
    assert done.returncode == 0, done.stdout
    scores = []
    for flags in ((), ("--fold",)):
        done = run_tool("test", config, tmp_path / "run/iter_2.pth", *demo, "--out", tmp_path / "out.pkl", *flags)
        assert done.returncode == 0, done.stdout
        predictions = pickle.loads((tmp_path / "out.pkl").read_bytes())
        scores.append(torch.stack([prediction["pred_score"] for prediction in predictions]))
    assert len(scores[0]) == 8
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-6)
