"""Read checkpoint files safely, and download the published ones."""

import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
import zipfile
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from rich.console import Console
from rich.progress import wrap_file

from van_mm.utils.compat import ALLOWED_GLOBALS
from van_mm.utils.errors import WeightsError

# Published weights by name. size_mb is the size of the tensors in 1e6 bytes, and file_mb that of a file that holds
# more, such as an optimizer. file is a name for the file of a URL that has none. published is the metric that the
# source reports for these weights, with its protocol.
MODEL_ZOO = json.loads((Path(__file__).parent / "model_zoo.json").read_text())
MODEL_ZOO_PREFIX = "van_mm://"
# Environment variable for users who trust their files. If it is 1, checkpoints are unpickled without restrictions, and
# code in them runs.
TRUST_VARIABLE = "VAN_MM_RUN_CODE_IN_CHECKPOINTS"
CHECKPOINT_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin", ".safetensors")
_read_ahead = {}  # checkpoints by their source, from read_ahead until a runner loads them
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.\w+$")


# ---- Reading files --------------------------------------------------------------------------------------------------


def may_run_code() -> bool:
    """Return whether the user trusts checkpoints, so that code in them may run."""
    return os.environ.get(TRUST_VARIABLE) == "1"


def read_checkpoint_file(path: str | Path, map_location="cpu", mmap: bool = False) -> dict:
    """Read a checkpoint file without running any code in it.

    Args:
        path (str | Path): A file in safetensors' format, if its name ends in ``.safetensors``, or else in PyTorch's.
        map_location: Device of the tensors, as in ``torch.load``. Defaults to 'cpu'.
        mmap (bool): Leave tensors on the disk until they are used, if the file's format allows it. Defaults to False.

    Returns:
        dict: The content of the file: a state dict, or a dict that contains one.

    Raises:
        WeightsError: If the file is missing, empty, truncated or not a checkpoint, or if it refers to a type that is
            not allowed. With ``VAN_MM_RUN_CODE_IN_CHECKPOINTS=1`` every type is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no checkpoint {path}: there is no such file")
    size = path.stat().st_size
    options = dict(map_location=map_location, mmap=True if mmap and zipfile.is_zipfile(path) else None)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path, device=str(map_location or "cpu")))
        if zipfile.is_zipfile(path):  # PyTorch never compresses, and a compressed entry could unpack to any size
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise WeightsError(f"{path} is a compressed archive, not a checkpoint. Unpack it first")
        if may_run_code():
            content = torch.load(path, **options, weights_only=False)
        elif torch.__version__ >= "2.6":
            content = torch.load(path, **options, weights_only=True)
        else:
            warn_of_old_torch()
            content = torch.load(path, map_location=map_location, pickle_module=RestrictedPickle, weights_only=False)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)|asks for (getattr\(.*\))", str(error))
        if not refused:
            raise WeightsError(f"{path} ({size} bytes) is cut short or not a checkpoint. Get the file again") from error
        raise WeightsError(
            f"{path} asks for {refused[1] or refused[2]}, which is not allowed in a weights-only file because it could "
            f"run code. Get the weights as safetensors, or set {TRUST_VARIABLE}=1 if you trust the source of the file"
        ) from error
    except Exception as error:
        cause = str(error).strip().split("\n")[0]
        raise WeightsError(
            f"{path} ({size} bytes) can't be read. It may be cut short or not a checkpoint: "
            f"{type(error).__name__}: {cause}"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


class RestrictedPickle:
    """A pickle module that restores only tensors and the types in mmengine's checkpoints.

    It is the ``pickle_module`` of ``torch.load`` before PyTorch 2.6. There ``weights_only`` is unsafe (CVE-2025-32434),
    and before PyTorch 2.4 its allow-list cannot be extended.
    """

    class Unpickler(pickle.Unpickler):
        """Unpickler that refuses all other types."""

        def find_class(self, module: str, name: str):
            """Return an allowed class or function, or raise ``pickle.UnpicklingError``."""
            module = "builtins" if module == "__builtin__" else module  # pickle's protocol 2 uses Python 2's name
            is_storage = module == "torch" and name.isidentifier() and name.endswith("Storage")
            if is_storage or f"{module}.{name}" in (
                "collections.OrderedDict", "torch.Size", "torch.device", "torch._utils._rebuild_tensor_v2",
                "torch._utils._rebuild_parameter", "_codecs.encode",
            ):  # fmt: skip
                return super().find_class(module, name)
            if f"{module}.{name}" not in ALLOWED_GLOBALS:
                raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
            return ALLOWED_GLOBALS[f"{module}.{name}"]

    @classmethod
    def load(cls, file, **kwargs):
        """Unpickle a file."""
        return cls.Unpickler(file, **kwargs).load()


@cache
def warn_of_old_torch() -> None:
    """Warn once that checkpoints are read by :class:`RestrictedPickle`."""
    warnings.warn(
        f"torch {torch.__version__} cannot read untrusted checkpoints safely (CVE-2025-32434), so van_mm uses its own "
        "restricted reader. Upgrade to torch 2.6, or prefer safetensors for files of unknown origin.",
        stacklevel=3,
    )


def get_cache_path(url: str) -> Path:
    """Return the path at which the download of a URL is kept, whether or not it exists.

    It is below PyTorch Hub's folder for checkpoints. A name with a hash, as OpenMMLab's files have it, belongs to one
    file only and stays where other programs look for it. Other names, such as ``pytorch_model.bin``, belong to many, so
    each URL has a folder of its own.

    Example:
        >>> url = "https://huggingface.co/Visual-Attention-Network/van-tiny/resolve/main/pytorch_model.bin?download=true"
        >>> "/".join(get_cache_path(url).parts[-2:])
        'ea2acc5c/pytorch_model.bin'
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    name = Path(urlparse(url).path.rstrip("/")).name
    if HASH_IN_NAME.search(name):
        return folder / name
    if not name.endswith(CHECKPOINT_SUFFIXES):  # a link without a file name
        name = next(
            (row["file"] for row in MODEL_ZOO.values() if row["url"] == url and "file" in row), "checkpoint.pth"
        )
    return folder / hashlib.sha256(url.encode()).hexdigest()[:8] / name


def download_checkpoint(url: str) -> Path:
    """Download a checkpoint, unless it is in the cache already, and check it.

    Args:
        url (str): Address of the file. If its name ends in ``-`` and eight hexadecimal digits, these are the first
            digits of its SHA-256 hash.

    Returns:
        Path: The file in the cache, see :func:`get_cache_path`.

    Raises:
        WeightsError: If the download fails or breaks off, if the answer is a web page, if the file is smaller than its
            tensors, or if its hash is not the one in its name. An incomplete file is not kept.
    """
    cached = get_cache_path(url)
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        draft = cached.with_name(f".{cached.name}-{os.getpid()}")
        try:
            fetch(url, draft, cached)
            draft.replace(cached)
        finally:
            draft.unlink(missing_ok=True)
    smallest = next((row.get("size_mb", 0) for row in MODEL_ZOO.values() if row["url"] == url), 0)
    if cached.stat().st_size < 0.95e6 * smallest:  # 0.95: our choice, a margin for rounding
        raise WeightsError(
            f"{cached} has {cached.stat().st_size / 1e6:.1f} MB, but its weights take {smallest} MB. Delete the file, "
            "and it will be downloaded again"
        )
    expected = HASH_IN_NAME.search(cached.name)
    if expected and not compute_sha256(cached).startswith(expected[1]):
        raise WeightsError(
            f"the SHA-256 hash of {cached} is not the one in its name. Delete the file, and it will be downloaded again"
        )
    return cached


def fetch(url: str, draft: Path, cached: Path) -> None:
    """Download a URL to ``draft`` and show the progress.

    Raises:
        WeightsError: If the download fails or breaks off, or if the answer is a web page. The message names ``cached``.
    """
    remedy = (
        f"Download it on another machine or in a browser, and put it at {cached}. To train without these weights, add "
        "--cfg-options model.backbone.init_cfg=None or --demo"
    )
    try:
        with urlopen(Request(url, headers={"User-Agent": "van_mm"}), timeout=60) as response:
            length = int(response.headers.get("Content-Length") or 0)
            progress = wrap_file(response, length or None, description=cached.name, console=Console(stderr=True))
            with progress as body, draft.open("wb") as file:
                shutil.copyfileobj(body, file)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        raise WeightsError(f"{url} can't be downloaded ({error}). {remedy}") from error
    size = draft.stat().st_size
    if size < length:
        raise WeightsError(f"the download of {url} broke off after {size} of {length} bytes. Try again. {remedy}")
    with draft.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise WeightsError(f"{url} gives a web page instead of a checkpoint. {remedy}")


def compute_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def resolve_source(source: str) -> str:
    """Return the URL of published weights.

    Args:
        source (str): A name such as ``van_mm://b2_in1k``, a path or a URL.

    Returns:
        str: The URL of a name. A path or URL is returned unchanged.

    Raises:
        WeightsError: If there are no published weights of that name.

    Example:
        >>> resolve_source("van_mm://b0_in1k").rpartition("/")[2]
        'van-b0_3rdparty_20230522-956f5e0d.pth'
    """
    if not source.startswith(MODEL_ZOO_PREFIX):
        return source
    name = source.removeprefix(MODEL_ZOO_PREFIX)
    if name not in MODEL_ZOO:
        raise WeightsError(
            f"no weights named '{source}'; there are {', '.join(MODEL_ZOO_PREFIX + name for name in MODEL_ZOO)}"
        )
    return MODEL_ZOO[name]["url"]


def read_checkpoint(source: str | Path, map_location="cpu") -> dict:
    """Read a checkpoint from a file, a URL or the published weights.

    Args:
        source (str | Path): A path, a URL, or ``van_mm://`` and a name in :data:`MODEL_ZOO`.
        map_location: Device of the tensors, as in ``torch.load``. Defaults to 'cpu'.

    Returns:
        dict: The content of the file: a state dict, or a dict that contains one.

    Raises:
        WeightsError: If the name is unknown, the download fails, or the file is not a safe checkpoint.
    """
    source = resolve_source(str(source))
    return read_checkpoint_file(
        download_checkpoint(source) if source.startswith(("http://", "https://")) else source, map_location
    )


def read_ahead(source: str | Path) -> dict:
    """Read a checkpoint that a runner loads next, and keep it for the runner, so that it is read only once."""
    _read_ahead[str(source)] = checkpoint = read_checkpoint(source)
    return checkpoint


def read_for_mmengine(filename, map_location=None, **kwargs):
    """Call :func:`read_checkpoint` with the signature of mmengine's checkpoint loaders, unless it was read ahead."""
    return _read_ahead.pop(str(filename), None) or read_checkpoint(filename, map_location)


# The readers are replaced for the whole process, because mmengine's own readers run the code in a checkpoint. The
# reader of URLs does so with every PyTorch, because it passes weights_only=False. The reader of files does so before
# PyTorch 2.6. Neither of them reads safetensors.
CheckpointLoader.register_scheme(("", "http://", "https://", MODEL_ZOO_PREFIX), loader=read_for_mmengine, force=True)
