"""Published weights load by name and by URL. A local server replaces the real hosts."""

import argparse
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.test_loading import SMALL, classifier, official, randomise
from van_mm.checkpoints.io import MODEL_ZOO, get_cache_path, read_checkpoint
from van_mm.checkpoints.loading import load_van_weights
from van_mm.models.backbones.van import VAN
from van_mm.utils.errors import WeightsError


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve ``server.files``, which maps a path with its query to content. Downloads go to an empty cache."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.server.files.get(self.path)
            self.server.requests.append(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + self.server.missing))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.missing = {}, [], 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


def to_bytes(content, tmp_path) -> bytes:
    torch.save(content, tmp_path / "content.pth")
    return (tmp_path / "content.pth").read_bytes()


def make_official_file(model: torch.nn.Module, tmp_path) -> bytes:
    """Return a checkpoint with all entries of timm's checkpoint saver, which wrote the authors' files."""
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    content = dict(
        epoch=300, arch="van_tiny", state_dict=official(model), optimizer=optimizer.state_dict(), version=2,
        args=argparse.Namespace(model="van_tiny", lr=1e-3, mean=None, input_size=(3, 224, 224), amp=True), metric=75.4,
    )  # fmt: skip
    return to_bytes(content, tmp_path)


def test_official_file_loads_by_name(server, tmp_path, monkeypatch):
    source, model = randomise(classifier()), classifier()
    monkeypatch.setitem(MODEL_ZOO, "mine", dict(url=f"{server.url}/resolve/main/van_tiny_754.pth.tar"))
    server.files["/resolve/main/van_tiny_754.pth.tar"] = make_official_file(source, tmp_path)
    load_van_weights(model, "van_mm://mine")
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert read_checkpoint("van_mm://mine")["args"].lr == 1e-3
    assert len(server.requests) == 1  # the second read uses the cache


@pytest.mark.parametrize(
    "paths", [("/f/aada22/?dl=1", "/f/dd3eb7/?dl=1"), ("/van-tiny/pytorch_model.bin", "/van-base/pytorch_model.bin")]
)
def test_urls_with_equal_file_names_do_not_collide(paths, server, tmp_path):
    for number, path in enumerate(paths):
        server.files[path] = to_bytes({"norm1.weight": torch.full((3,), float(number))}, tmp_path)
    for _ in range(2):
        for number, path in enumerate(paths):
            assert read_checkpoint(server.url + path)["norm1.weight"][0] == number
    assert len(server.requests) == 2


def test_suffix_is_found_before_a_query(server, tmp_path):
    source = randomise(VAN(arch=SMALL))
    save_file(source.state_dict(), tmp_path / "van.safetensors")
    server.files["/van.safetensors?download=true"] = (tmp_path / "van.safetensors").read_bytes()
    model = VAN(arch=SMALL)
    load_van_weights(model, f"{server.url}/van.safetensors?download=true")
    assert torch.equal(model.norm4.weight, source.norm4.weight)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Sign in</title>", b"\n <html><body>virus scan</body></html>"])
def test_web_page_is_refused(page, server, tmp_path):
    url = f"{server.url}/file/d/1KYoIe/view?usp=sharing"
    server.files["/file/d/1KYoIe/view?usp=sharing"] = page
    with pytest.raises(WeightsError, match=r"gives a web page instead of a checkpoint\. Download it .* put it at"):
        read_checkpoint(url)
    assert not [file for file in (tmp_path / "hub").rglob("*") if file.is_file()]


def test_interrupted_download_is_refused_and_deleted(server, tmp_path):
    server.files["/van.pth"] = to_bytes({"norm1.weight": torch.ones(3000)}, tmp_path)
    server.missing = 1000
    with pytest.raises(WeightsError, match=r"broke off after \d+ of \d+ bytes|can't be downloaded"):
        read_checkpoint(f"{server.url}/van.pth")
    assert not [file for file in (tmp_path / "hub").rglob("*") if file.is_file()]
    server.missing = 0
    assert len(read_checkpoint(f"{server.url}/van.pth")["norm1.weight"]) == 3000


def test_hash_in_the_file_name(server, tmp_path):
    """The name of an OpenMMLab file ends in the first digits of its hash, which are verified."""
    content = to_bytes({"norm1.weight": torch.ones(3)}, tmp_path)
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name in (f"van-{digest}.pth", "van-00000000.pth"):
        server.files[f"/{name}"] = content
    assert len(read_checkpoint(f"{server.url}/van-{digest}.pth")["norm1.weight"]) == 3
    with pytest.raises(WeightsError, match="the SHA-256 hash of .*van-00000000.pth is not the one in its name"):
        read_checkpoint(f"{server.url}/van-00000000.pth")


def test_missing_file_is_refused(server):
    with pytest.raises(WeightsError, match=r"/nothing.pth can't be downloaded \(HTTP Error 404.*put it at"):
        read_checkpoint(f"{server.url}/nothing.pth")


def test_cache_paths_are_unique():
    paths = {get_cache_path(row["url"]) for row in MODEL_ZOO.values()}
    assert len(paths) == len(MODEL_ZOO)
    assert all(path.name.endswith((".pth", ".pth.tar", ".bin", ".safetensors")) for path in paths)


def test_tool_prints_measured_and_published_metrics(server, tmp_path, monkeypatch, run_tool, demo_root):
    config, demo = "cls/van_b0_in1k", ("--demo", "--demo-root", demo_root, "--work-dir", tmp_path / "run")
    done = run_tool("train", config, *demo, "--demo-iters", 1, "--no-validate")
    assert done.returncode == 0, done.stdout
    published = dict(metric="accuracy/top1", value=75.4, protocol="224x224 center crop")
    monkeypatch.setitem(MODEL_ZOO, "mine", dict(url=f"{server.url}/van.pth", published=published))
    server.files["/van.pth"] = (tmp_path / "run/iter_1.pth").read_bytes()
    done = run_tool("test", config, "van_mm://mine", *demo)
    assert done.returncode == 0, done.stdout
    assert ", published 75.4 (224x224 center crop)" in done.stdout and "accuracy/top1: measured " in done.stdout
