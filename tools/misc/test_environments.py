#!/usr/bin/env python
"""Build each supported environment from the package index, run the same checks in it, and write docs/environments.md.

python tools/misc/test_environments.py                                   # all environments: about an hour on two cores
python tools/misc/test_environments.py py313-numpy2 onedl                # two of them; the other rows stay
python tools/misc/test_environments.py py311-compiled --run "python -m pytest packages"   # your command instead

Each environment is built by uv in .environments/NAME and kept. A check is an import, the operators' tests, and for one
config of each task: two training iterations with validation, a resumed third and fourth, and a test of the checkpoint.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".environments"
RESULTS = FOLDER / "results.json"
MATRIX = ROOT / "docs" / "environments.md"
START, END = "<!-- table: tools/misc/test_environments.py -->", "<!-- end of table -->"

MMLAB = ["mmpretrain==1.2.0", "mmdet==3.3.0", "mmsegmentation==1.2.2", "mmpose==1.3.2", "mmengine==0.10.7"]
ONEDL = [
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmpretrain",
    "onedl-mmdetection",
    "onedl-mmsegmentation",
    "imgaug==0.4.0",
]
ALWAYS = [
    "pysodmetrics==1.4.2", "panopticapi-lite==0.2.0", "ftfy", "regex", "json-tricks", "munkres", "pycocotools",
    "safetensors", "setuptools<81", "pytest", "pytest-xdist", "onnx", "onnxruntime",
    "./packages/mmcv-torchops", "./packages/xtcocotools-lite",
]  # fmt: skip


@dataclass(frozen=True)
class Environment:
    """An interpreter, versions, and where mmcv's operators come from."""

    python: str
    torch: str
    torchvision: str
    numpy: str
    opencv: str
    codebases: tuple[str, ...] = tuple(MMLAB)
    mmcv: str = "mmcv-lite==2.1.0"

    @property
    def requirements(self) -> list[str]:
        pins = [f"torch=={self.torch}", f"torchvision=={self.torchvision}"]
        pins += [f"numpy=={self.numpy}", f"opencv-python=={self.opencv}"]
        return [*pins, *self.codebases, *([self.mmcv] if self.mmcv else []), *ALWAYS]

    @property
    def settings(self) -> str:
        """The settings of uv: requirements of other packages that are wrong, and how mmcv is built."""
        excluded = ["opencv-python-headless", "chumpy", "xtcocotools"]
        # The version of torch is in the key of a compiled mmcv in uv's cache.
        build = [f"torch=={self.torch}", "setuptools<81", "ninja", "psutil", "packaging", "wheel"]
        with_ops = int(self.mmcv.startswith("mmcv=="))
        return (
            f"exclude-dependencies = {json.dumps(excluded)}\n"
            f"override-dependencies = {json.dumps([f'numpy=={self.numpy}'])}\n"
            f"[extra-build-dependencies]\nmmcv = {json.dumps(build)}\n"
            "[extra-build-variables]\n"
            f'mmcv = {{ MMCV_WITH_OPS = "{with_ops}", FORCE_CUDA = "0", CFLAGS = "-g0 -O2" }}\n'
            'onedl-mmcv = { MMCV_WITH_OPS = "0" }\n'
        )


ENVIRONMENTS = {
    "py310-torch2.4": Environment("3.10", "2.4.1", "0.19.1", "1.26.4", "4.10.0.84"),
    "py311-compiled": Environment("3.11", "2.11.0", "0.26.0", "1.26.4", "4.11.0.86", mmcv="mmcv==2.1.0"),
    "py311": Environment("3.11", "2.14.1", "0.29.1", "2.3.*", "5.0.*"),
    "py312-numpy2": Environment("3.12", "2.14.1", "0.29.1", "2.2.*", "4.12.*"),
    "py313-numpy2": Environment("3.13", "2.14.1", "0.29.1", "2.3.*", "5.0.*"),
    "py311-torch2.1-compiled": Environment("3.11", "2.1.2", "0.16.2", "1.26.4", "4.5.5.64", mmcv="mmcv==2.1.0"),
    "onedl": Environment("3.11", "2.14.1", "0.29.1", "1.26.4", "4.11.0.86", codebases=tuple(ONEDL), mmcv=""),
}
TASKS = {
    "classification": "cls/van_b0_in1k",
    "detection": "det/retinanet_van_b0_1x_coco",
    "instances": "det/mask_rcnn_van_b0_1x_coco",
    "panoptic": "det/mask2former_van_b2_50e_coco_panoptic",
    "segmentation": "seg/semantic_fpn_van_b0",
    "saliency": "seg/edn_van_b1_duts",
    "pose": "pose/simplebaseline_van_b2_coco_256x192",
}
VERSIONS = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
def find(*names):
    for name in names:
        try: return f"{name} {version(name)}"
        except PackageNotFoundError: pass
print(json.dumps([platform.python_version(), find("torch"), find("numpy"), find("opencv-python"),
                  find("mmcv-lite", "mmcv", "onedl-mmcv"), find("mmdet", "onedl-mmdetection")]))
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--run", metavar="COMMAND", help="run this command in the environments instead of the checks")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in ENVIRONMENTS]:
        parser.error(f"no environment is named {', '.join(unknown)}. Choose from {', '.join(ENVIRONMENTS)}")
    return args


def find_python(version: str) -> str:
    """Return an interpreter of pyenv if there is one; otherwise the version, which uv looks for or downloads."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return next(map(str, sorted(root.glob(f"versions/{version}.*/bin/python"))), version)


def build(name: str) -> dict[str, str]:
    """Build an environment, unless it is complete, and return the variables that activate it.

    Raises:
        subprocess.CalledProcessError: If uv fails; its message has been printed.
    """
    environment, target = ENVIRONMENTS[name], FOLDER / name
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"VIRTUAL_ENV": str(target), "PATH": f"{target / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    if (target / ".complete").exists():
        return variables
    FOLDER.mkdir(exist_ok=True)
    settings = FOLDER / f"{name}.toml"
    settings.write_text(environment.settings)
    run = [uv, "--config-file", str(settings), "pip", "install", "--quiet", "--python", str(target)]
    start = time.monotonic()
    for command in (
        [uv, "--no-config", "venv", "--quiet", "--clear", "--python", find_python(environment.python), str(target)],
        [*run, *environment.requirements],
        [*run, "--no-deps", "--editable", "."],
    ):
        subprocess.run(command, cwd=ROOT, check=True)
    (target / ".complete").write_text(f"{time.monotonic() - start:.0f}")
    return variables


def check(name: str) -> dict:
    """Build an environment and run the checks in it.

    Returns:
        dict: Versions, seconds of the installation, and for each check "ok" or the last line of its output.
    """
    try:
        variables = build(name)
    except subprocess.CalledProcessError as error:
        return dict(versions=[], seconds=None, checks={"install": f"failed with exit code {error.returncode}"})
    log = FOLDER / f"{name}.log"
    log.write_text("")

    def run(*commands: str) -> str:
        """Run commands until one fails; return "ok" or the failed one's last line."""
        for command in commands:
            done = subprocess.run(
                shlex.split(command),
                cwd=ROOT,
                env=variables,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            with log.open("a") as file:
                file.write(f"$ {command}\n{done.stdout}\n")
            if done.returncode:
                lines = [line for line in done.stdout.splitlines() if line.strip()]
                return lines[-1].strip() if lines else f"exit code {done.returncode}"
        return "ok"

    checks = {
        "import": run("python -m van_mm.ops", "python -m van_mm.utils.check_env"),
        "operators": run("env OMP_NUM_THREADS=1 python -m pytest -q -n 2 -p no:cacheprovider packages"),
    }
    work = FOLDER / "work" / name
    shutil.rmtree(work, ignore_errors=True)
    for task, config in TASKS.items():
        if task == "pose" and "mmpose" not in " ".join(ENVIRONMENTS[name].codebases):
            checks[task] = "no mmpose"
            continue
        demo = f"{config} --demo --demo-root {FOLDER / 'data'} --work-dir {work / task}"
        checks[task] = run(
            f"python tools/train.py {demo} --demo-iters 2",
            f"python tools/train.py {demo} --demo-iters 4 --resume",
            f"python tools/test.py {config} {work / task}/iter_4.pth --demo --demo-root {FOLDER / 'data'} "
            f"--work-dir {work / task}",
        )
        print(f"{name}: {task}: {checks[task]}", flush=True)
    done = subprocess.run(["python", "-c", VERSIONS], env=variables, text=True, capture_output=True, check=True)
    seconds = int((FOLDER / name / ".complete").read_text())
    return dict(versions=json.loads(done.stdout), seconds=seconds, checks=checks, date=str(date.today()))


def write_table(results: dict[str, dict]) -> None:
    """Replace the table in docs/environments.md."""
    columns = ["import", "operators", *TASKS]
    lines = [
        "| environment | Python | torch | numpy | OpenCV | mmcv | mmdet | " + " | ".join(columns) + " | date |",
        "| --- " * (len(columns) + 8) + "|",
    ]
    for name in (name for name in ENVIRONMENTS if name in results):
        result = results[name]
        versions = [(value or "-").removeprefix("torch ").removeprefix("numpy ") for value in result["versions"]]
        versions = [value.removeprefix("opencv-python ").removeprefix("mmdet ") for value in versions] or ["-"] * 6
        checks = [result["checks"].get(column, "-") for column in columns]
        lines.append(f"| {' | '.join([name, *versions, *checks, result.get('date', '-')])} |")
    head, _, rest = MATRIX.read_text().partition(START)
    tail = rest.partition(END)[2]
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, no GPU" if not shutil.which("nvidia-smi") else "with a GPU"
    )
    MATRIX.write_text(f"{head}{START}\n\n{chr(10).join(lines)}\n\nMachine: {machine}.\n\n{END}{tail}")


def main(args: argparse.Namespace) -> int:
    failed = False
    for name in args.names or ENVIRONMENTS:
        print(f"== {name}", flush=True)
        if args.run:
            failed |= subprocess.run(shlex.split(args.run), cwd=ROOT, env=build(name)).returncode != 0
            continue
        result = check(name)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = result
        RESULTS.write_text(json.dumps(results, indent=2))
        write_table(results)
        print(json.dumps(results[name], indent=2), flush=True)
        failed |= any(value not in ("ok", "no mmpose") for value in results[name]["checks"].values())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
