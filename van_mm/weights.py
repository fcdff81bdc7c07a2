"""Published VAN weights of any origin: found by name, read safely, fitted to any model, and written for others.

Five families of files name the same tensors differently. :func:`split_state_dict` takes any of them apart into the
backbone, under the official names (which are ours), and the rest; :func:`match_state_dict` fits the two to a model.
Importing the package makes mmengine read every checkpoint through :func:`read_file`, so none can run code.

``python -m van_mm.weights`` lists the weights that have a name, such as ``van_mm://b2_in1k``.
"""

import hashlib
import json
import os
import pickle
import re
import sys
import warnings
import zipfile
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from .compat import ALLOWED
from .models.van import ARCHS, VAN

# Name to arch, data set, classes, source, URL, and size_mb: what the tensors alone take, in 1e6 bytes.
TABLE = json.loads((Path(__file__).parent / "pretrained_weights.json").read_text())
SCHEME = "van_mm://"
# Set to 1 by a user who trusts a file that is more than weights: it is then loaded as any pickle, and may do anything.
RUN_CODE = "VAN_MM_RUN_CODE_IN_CHECKPOINTS"


class WeightsError(ValueError):
    """Weights that can't be had, read or fitted; the message names the cause and the remedy."""


# ---- Reading files --------------------------------------------------------------------------------------------------


def read_file(path: str | Path, map_location="cpu") -> dict:
    """The content of a checkpoint file, safetensors or PyTorch's own format, of which nothing is ever executed.

    Args:
        path (str | Path): The file; ``.safetensors`` by its ending, anything else is PyTorch's.
        map_location: As in ``torch.load``. Defaults to 'cpu'.

    Raises:
        WeightsError: If the file is missing, empty, truncated, no checkpoint, or asks for a type that is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no checkpoint {path}")
    size = path.stat().st_size
    unsafe = os.environ.get(RUN_CODE) == "1"
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path, device=str(map_location or "cpu")))
        if zipfile.is_zipfile(path):  # torch never compresses: an entry that is would unpack to any size
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise WeightsError(f"{path} is a compressed archive, not a checkpoint")
        if unsafe:
            content = torch.load(path, map_location=map_location, weights_only=False)
        elif torch.__version__ >= "2.6":
            content = torch.load(path, map_location=map_location, weights_only=True)
        else:
            _warn_of_old_torch()
            content = torch.load(path, map_location=map_location, pickle_module=_RestrictedPickle, weights_only=False)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|asks for getattr\(.*\)", str(error))
        if not found:
            raise WeightsError(f"{path} ({size} bytes) is cut short or no checkpoint at all") from error
        raise WeightsError(
            f"{path} is more than weights: it asks for {found[1] or found[0]}, which could run code, so it is not "
            f"loaded. Get the weights as safetensors; or, if you trust where it comes from, set {RUN_CODE}=1"
        ) from error
    except Exception as error:
        cause = str(error).strip().split("\n")[0]
        raise WeightsError(
            f"{path} ({size} bytes) can't be read, it may be cut short or no checkpoint at all: "
            f"{type(error).__name__}: {cause}"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


class _RestrictedPickle:
    """The pickle module for torch before 2.6, whose ``weights_only`` has no allow-list that can be added to, or a
    broken one: it knows the types of tensors and of mmengine's checkpoints, and no other."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str):
            module = "builtins" if module == "__builtin__" else module  # its name in pickle's protocol 2
            storage = module == "torch" and name.isidentifier() and name.endswith("Storage")
            if storage or f"{module}.{name}" in (
                "collections.OrderedDict", "torch.Size", "torch.device", "torch._utils._rebuild_tensor_v2",
                "torch._utils._rebuild_parameter", "_codecs.encode",
            ):  # fmt: skip
                return super().find_class(module, name)
            if f"{module}.{name}" not in ALLOWED:
                raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
            return ALLOWED[f"{module}.{name}"]

    @classmethod
    def load(cls, file, **kwargs):
        return cls.Unpickler(file, **kwargs).load()


@cache
def _warn_of_old_torch() -> None:
    warnings.warn(
        f"torch {torch.__version__} reads checkpoints less safely than 2.6 and newer (CVE-2025-32434), so van_mm's own "
        "reader stands in. Prefer safetensors for files of unknown origin.",
        stacklevel=3,
    )


def fetch(url: str) -> Path:
    """Download a checkpoint into torch hub's cache, unless it is there, and check it.

    Raises:
        WeightsError: If it is out of reach, smaller than its tensors, or its hash is not the one in its name.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached))
        except (URLError, OSError) as error:
            raise WeightsError(
                f"{url} can't be downloaded ({error}). Download it on another machine and put it at {cached}; to "
                "train without it: --cfg-options model.backbone.init_cfg=None, or --demo"
            ) from error
    smallest = next((row.get("size_mb", 0) for row in TABLE.values() if row["url"] == url), 0)
    if cached.stat().st_size < 0.95e6 * smallest:
        raise WeightsError(
            f"{cached} has {cached.stat().st_size / 1e6:.1f} MB, its weights take {smallest}; delete it, and it is "
            "downloaded anew"
        )
    expected = re.search(r"-([0-9a-f]{8})\.\w+$", cached.name)
    if expected:
        with cached.open("rb") as file:
            found = (
                hashlib.file_digest(file, "sha256").hexdigest()
                if sys.version_info >= (3, 11)
                else (hashlib.sha256(file.read()).hexdigest())
            )
        if not found.startswith(expected[1]):
            raise WeightsError(f"{cached} does not have the hash in its name; delete it, and it is downloaded anew")
    return cached


def resolve(source: str) -> str:
    """The URL behind a name such as ``van_mm://b2_in1k``; anything else comes back as it is.

    Raises:
        WeightsError: If the name is unknown.
    """
    if not source.startswith(SCHEME):
        return source
    name = source.removeprefix(SCHEME)
    if name not in TABLE:
        raise WeightsError(f"no weights named '{source}'; there are {', '.join(SCHEME + name for name in TABLE)}")
    return TABLE[name]["url"]


def read_checkpoint(source: str | Path, map_location="cpu") -> dict:
    """The checkpoint at a path, a URL or a name of :data:`TABLE`.

    Raises:
        WeightsError: As :func:`read_file`, :func:`fetch` and :func:`resolve`.
    """
    source = resolve(str(source))
    return read_file(fetch(source) if source.startswith(("http://", "https://")) else source, map_location)


def load_from_van_mm(filename, map_location=None, **kwargs):
    """:func:`read_checkpoint` as mmengine calls it."""
    return read_checkpoint(filename, map_location)


# mmengine's own readers of files and URLs know neither names nor safetensors, and load unsafely before torch 2.6.
CheckpointLoader.register_scheme(("", "http://", "https://", SCHEME), loader=load_from_van_mm, force=True)


# ---- Names of parameters --------------------------------------------------------------------------------------------

# What wraps a whole state dict: DataParallel, torch.compile, and averaged copies.
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|ema_model\.|ema\.)+")
# (pattern, official name) of mmpretrain's VAN, and of Hugging Face's (transformers.models.van).
MMPRETRAIN = [
    (r"^blocks(\d)\.", r"block\1."),
    (r"^(patch_embed\d)\.projection\.", r"\1.proj."),
    (r"\.DW_conv\.", ".conv0."),
    (r"\.DW_D_conv\.", ".conv_spatial."),
    (r"\.mlp\.dwconv\.(weight|bias)$", r".mlp.dwconv.dwconv.\1"),
]
HUGGINGFACE = [
    (r"^van\.", ""),
    (r"^encoder\.stages\.(\d)\.embeddings\.convolution\.", lambda m: f"patch_embed{int(m[1]) + 1}.proj."),
    (r"^encoder\.stages\.(\d)\.embeddings\.normalization\.", lambda m: f"patch_embed{int(m[1]) + 1}.norm."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"^encoder\.stages\.(\d)\.normalization\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"\.pre_normomalization\.", ".norm1."),
    (r"\.post_normalization\.", ".norm2."),
    (r"\.attention\.pre_projection\.conv\.", ".attn.proj_1."),
    (r"\.attention\.post_projection\.", ".attn.proj_2."),
    (r"\.attention\.attention_layer\.attention\.depth_wise\.", ".attn.spatial_gating_unit.conv0."),
    (r"\.attention\.attention_layer\.attention\.depth_wise_dilated\.", ".attn.spatial_gating_unit.conv_spatial."),
    (r"\.attention\.attention_layer\.attention\.point_wise\.", ".attn.spatial_gating_unit.conv1."),
    (r"\.attention_scaling\.weight$", ".layer_scale_1"),
    (r"\.mlp_scaling\.weight$", ".layer_scale_2"),
    (r"\.mlp\.in_dense\.", ".mlp.fc1."),
    (r"\.mlp\.depth_wise\.", ".mlp.dwconv.dwconv."),
    (r"\.mlp\.out_dense\.", ".mlp.fc2."),
]
BACKBONE_KEY = re.compile(r"^(?:patch_embed|block|norm)\d+\.")
HEAD_KEY = re.compile(r"^(?:head|head\.fc|classifier)\.(weight|bias)$")  # official, MMLab and Hugging Face
UNUSED = re.compile(r"^(?:van\.)?layernorm\.")  # Hugging Face's VanModel has it and never calls it


def official_name(key: str) -> str:
    """The official name of a parameter of the backbone or classifier; other keys come back as they are."""
    key = key.removeprefix("backbone.")
    for pattern, name in HUGGINGFACE + MMPRETRAIN:
        key = re.sub(pattern, name, key)
    return HEAD_KEY.sub(r"head.fc.\1", key)


def split_state_dict(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take a state dict of any origin apart.

    Args:
        state_dict (dict): Key to tensor, of one of the families of this module, with or without wrappers' prefixes.

    Returns:
        tuple: The backbone under official names, and what is left, a classifier under ``head.fc``.
    """
    backbone, rest = {}, {}
    for key, value in state_dict.items():
        key = WRAPPERS.sub("", key)
        if UNUSED.match(key):
            continue
        name = official_name(key)
        (backbone if BACKBONE_KEY.match(name) else rest)[name] = value
    return backbone, rest


def unwrap(checkpoint: dict) -> dict[str, Tensor]:
    """The state dict in a checkpoint, or the checkpoint itself if it is one.

    Raises:
        WeightsError: If there is none.
    """
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise WeightsError("it holds no state dict")
    return checkpoint


def guess_arch(backbone: dict[str, Tensor]) -> str | None:
    """The size (``'b0'`` ...) whose widths and depths a backbone's official keys show, or None."""
    depths = [len({k.split(".")[1] for k in backbone if k.startswith(f"block{i}.")}) for i in range(1, 5)]
    widths = [len(backbone.get(f"norm{i}.weight", ())) for i in range(1, 5)]
    return next((n for n, a in ARCHS.items() if a["embed_dims"] == widths and a["depths"] == depths), None)


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def mismatches(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """What keeps ``weights`` from being loaded into a module with the state dict ``own``, a phrase each."""
    kinds = {
        "missing": [k for k in own if k not in weights and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in weights if k not in own],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in kinds.items() if keys]
    bad = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    return found + ([f"{len(bad)} with NaN or infinite values ({_listed(bad)})"] if bad else [])


def bare(model: nn.Module) -> nn.Module:
    """The model inside of what wraps it for several processes and for test-time augmentation."""
    model = model.module if is_model_wrapper(model) else model
    return model.module if isinstance(model, BaseTTAModel) else model


def match_state_dict(model: nn.Module, checkpoint: dict) -> dict[str, Tensor]:
    """Fit a checkpoint of any origin to a VAN or a whole model around one.

    The backbone must match to the last key. A classifier, detector or segmentor takes its other parts from the
    checkpoint where that is of the same kind of model, and keeps its own where it is not.

    Args:
        model (nn.Module): A VAN, or a model whose ``backbone`` is one.
        checkpoint (dict): As read from a file.

    Returns:
        dict: A state dict of (part of) ``model``.

    Raises:
        WeightsError: If the weights are no VAN's, of another architecture, or not finite.
    """
    backbone, rest = split_state_dict(unwrap(checkpoint))
    if not backbone:
        raise WeightsError("it holds no VAN weights: no key is a VAN's, in any of the known layouts")
    van = model if isinstance(model, VAN) else getattr(model, "backbone", None)
    if not isinstance(van, VAN):
        raise WeightsError(f"{type(model).__name__} has no VAN backbone to load into")
    own = van.state_dict()
    problems = mismatches(own, backbone)
    if problems:
        theirs, ours = guess_arch(backbone), guess_arch(own)
        cause = f"these are VAN-{theirs.upper()} weights, the model is " if theirs and theirs != ours else ""
        cause += (f"VAN-{ours.upper()}" if ours else "a VAN of its own widths and depths") if cause else ""
        raise WeightsError(
            "; ".join([cause] * bool(cause) + [f"of {len(own)} keys of the backbone, {problems[0]}"] + problems[1:])
        )
    if van is model:
        return backbone

    matched = {f"backbone.{key}": value for key, value in backbone.items()}
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.")}
    if own.keys() & rest.keys():
        other_classes = [
            k for k in own if k in rest and own[k].shape[1:] == rest[k].shape[1:] and own[k].shape != rest[k].shape
        ]
        if other_classes:
            print_log(f"left out, for another number of classes: {', '.join(other_classes)}", "current", level=30)
        problems = mismatches(
            {k: v for k, v in own.items() if k not in other_classes},
            {k: v for k, v in rest.items() if k not in other_classes},
        )
        if problems:
            raise WeightsError(f"besides the backbone, {'; '.join(problems)}")
        matched |= {key: value for key, value in rest.items() if key not in other_classes}
    return matched


def load_van_weights(model: nn.Module, source: str | Path) -> None:
    """Load VAN weights of any origin into a VAN, or into a model around one.

    Args:
        model (nn.Module): A VAN, or a classifier, detector, segmentor or pose estimator whose ``backbone`` is one.
        source (str | Path): A file, a URL, or a name such as ``van_mm://b2_in1k``.

    Raises:
        WeightsError: If the source can't be had or read, or does not fit; the model is left as it was.
    """
    try:
        weights = match_state_dict(model, read_checkpoint(source))
    except WeightsError as error:
        raise WeightsError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
    model.load_state_dict(weights, strict=False)  # what is missing was checked, and is another task's head


def to_family(backbone: dict[str, Tensor], rest: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Name the backbone (official names) and ``head.fc`` as another implementation does.

    Args:
        backbone (dict): Under official names.
        rest (dict): Of which only ``head.fc`` is kept for the other implementations.
        family (str): ``'van_mm'``, ``'official'``, ``'mmpretrain'`` or ``'huggingface'``.
    """
    head = {key: value for key, value in rest.items() if key.startswith("head.fc.")}
    if family == "official":
        return backbone | {key.replace("head.fc", "head"): value for key, value in head.items()}
    if family == "van_mm":
        return {f"backbone.{key}": value for key, value in backbone.items()} | rest
    if family == "mmpretrain":
        return {f"backbone.{mmpretrain_name(key)}": value for key, value in backbone.items()} | head
    named = {huggingface_name(key): value for key, value in backbone.items()}
    last = max(int(key[4:-7]) for key in backbone if re.match(r"norm\d+\.weight", key))
    for kind in ("weight", "bias"):  # VanModel has one more norm, which it never calls
        named[f"van.layernorm.{kind}"] = backbone[f"norm{last}.{kind}"].clone()
    return named | {key.replace("head.fc", "classifier"): value for key, value in head.items()}


def mmpretrain_name(key: str) -> str:
    """mmpretrain's name of a parameter of the backbone."""
    for pattern, name in (
        (r"^block(\d)\.", r"blocks\1."),
        (r"^(patch_embed\d)\.proj\.", r"\1.projection."),
        (r"\.conv0\.", ".DW_conv."),
        (r"\.conv_spatial\.", ".DW_D_conv."),
        (r"\.dwconv\.dwconv\.", ".dwconv."),
    ):
        key = re.sub(pattern, name, key)
    return key


def huggingface_name(key: str) -> str:
    """Hugging Face's name of a parameter of the backbone."""
    stage = int(re.match(r"[a-z_]+(\d)", key)[1]) - 1
    for pattern, name in (
        (r"^patch_embed\d\.proj\.", "embeddings.convolution."),
        (r"^patch_embed\d\.norm\.", "embeddings.normalization."),
        (r"^block\d\.", "layers."),
        (r"^norm\d\.", "normalization."),
        (r"(layers\.\d+)\.norm1\.", r"\1.pre_normomalization."),
        (r"(layers\.\d+)\.norm2\.", r"\1.post_normalization."),
        (r"\.attn\.proj_1\.", ".attention.pre_projection.conv."),
        (r"\.attn\.proj_2\.", ".attention.post_projection."),
        (r"\.attn\.spatial_gating_unit\.conv0\.", ".attention.attention_layer.attention.depth_wise."),
        (r"\.attn\.spatial_gating_unit\.conv_spatial\.", ".attention.attention_layer.attention.depth_wise_dilated."),
        (r"\.attn\.spatial_gating_unit\.conv1\.", ".attention.attention_layer.attention.point_wise."),
        (r"\.layer_scale_1$", ".attention_scaling.weight"),
        (r"\.layer_scale_2$", ".mlp_scaling.weight"),
        (r"\.mlp\.fc1\.", ".mlp.in_dense."),
        (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depth_wise."),
        (r"\.mlp\.fc2\.", ".mlp.out_dense."),
    ):
        key = re.sub(pattern, name, key)
    return f"van.encoder.stages.{stage}.{key}"


def main() -> None:
    """Print the table of named weights."""
    print(f"{'name':<28}{'VAN':<5}{'trained on':<14}{'classes':<9}{'MB':<7}{'cached':<8}from")
    for name, row in TABLE.items():
        cached = Path(torch.hub.get_dir(), "checkpoints", row["url"].rpartition("/")[2]).is_file()
        print(
            f"{SCHEME + name:<28}{row['arch'].upper():<5}{row['pretrain']:<14}{row['classes'] or 'no head':<9}"
            f"{row['size_mb']:<7}{'yes' if cached else 'no':<8}{row['source']}"
        )


if __name__ == "__main__":
    main()
