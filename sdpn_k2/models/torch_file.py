"""Files of torch.save from anywhere: read without running code, and told apart when they are not ours."""

from __future__ import annotations

import contextlib
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, ContextManager, Iterator, List

import numpy as np
import torch

from sdpn_k2.errors import InputError

# What other files begin with. Torch's own are zip archives ("PK") or, before torch 1.6, bare pickles.
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"<", "a web page: the download went wrong"),
    (b"\0B", "a binary of Kaldi"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
)
# What is in other zip archives than those of torch.save.
_ZIP_MEMBERS = (
    (r"(^|/)constants\.pkl$", "a TorchScript module: ask for its state dict, in a file of torch.save"),
    (r"(^|/)(archive_format|serialized_exported_program\.json)$", "a model of torch.export"),
    (r"\.npy$", "an archive of NumPy"),
    (r"^(?!.*/data\.pkl$).*\.(pt|pth|ckpt|pkl|bin)$", "a zip archive around others: unpack it"),
)
_TAR_MAGIC = (257, b"ustar", "a tar archive, such as a .nemo file of NVIDIA NeMo")

# Names of tensors (nested dicts joined by dots) by which a toolkit is known.
_ORIGINS = (
    (r"^(teacher|student)\.(module\.)?backbone\.blocks\.0\.conv\.conv\.weight", "3D-Speaker's SDPN or RDINO"),
    (r"(^|\.)xvector\.block1\.tdnnd1\.", "3D-Speaker's CAM++"),
    (r"(^|\.)fuse_mode12\.", "3D-Speaker's ERes2Net"),
    (r"(^|\.)layer2\.se_res2block\.|(^|\.)seg_1\.weight", "WeSpeaker"),
    (r"^(module\.|mods\.embedding_model\.)?blocks\.0\.conv\.conv\.weight", "SpeechBrain's ECAPA-TDNN"),
    (r"(^|\.)encoder\.encoder\.0\.mconv\.", "NVIDIA NeMo"),
    (r"^(__S__|model\.__S__)\.", "clovaai's voxceleb_trainer"),
    (r"(^|\.)speaker_encoder\.", "TaoRuijie's ECAPA-TDNN or loss trainers like it"),
    (r"(^|\.)(wav2vec2|hubert|wavlm)\.|(^|\.)feature_extractor\.conv_layers\.0\.", "a wav2vec 2.0, HuBERT or WavLM"),
    (r"(^|\.)patch_embed\.", "a vision transformer, such as those of facebookresearch/dino"),
    (r"^pytorch-lightning_version$", "PyTorch Lightning"),
)


def load_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors on the CPU, read with ``weights_only=True``.

    NumPy's numbers, which other trainers leave in their optimizer's state, are read too where torch can (from 2.5 on).

    Raises:
        InputError: no such file; cut short; not a file of torch's; one with Python objects, which could run code.
    """
    path = Path(path)
    try:
        with _numbers_of_numpy(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")  # an error says so
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint: {error.strerror or error}") from error
    except Exception as error:  # a broken archive or a pickle with code: torch raises many kinds
        raise InputError(f"{path}: {_why(path, str(error))}") from error


def describe(content: Any) -> str:
    """What a loaded file that is not ours looks like, for an error message."""
    names = list(_names(content))
    origin = next((name for pattern, name in _ORIGINS if any(re.search(pattern, key) for key in names)), None)
    held = ", ".join(map(str, list(content)[:4])) if isinstance(content, dict) else type(content).__name__
    return (f"it looks like {origin}; " if origin else "") + f"it holds: {held or 'nothing'}"


def _names(content: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield f"{prefix}{key}"
            yield from _names(value, f"{prefix}{key}.")


def _numbers_of_numpy() -> ContextManager:
    if not hasattr(torch.serialization, "safe_globals"):
        return contextlib.nullcontext()
    core = getattr(np, "_core", None) or np.core
    scalar = core.multiarray.scalar
    allowed: List[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
    # NumPy 1 and 2 write two names for one function.
    allowed += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return torch.serialization.safe_globals(allowed)


def _why(path: Path, error: str) -> str:
    """Why torch could not load a file, in a few words."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        return "not a complete checkpoint: the file is empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return f"not a checkpoint but {kind}"
    offset, magic, kind = _TAR_MAGIC
    if head[offset : offset + len(magic)] == magic:
        return f"not a checkpoint but {kind}"
    wanted = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", error)
    needs_newer = f"torch {torch.__version__} cannot read all of it safely; take torch 2.5 or later"
    old = not hasattr(torch.serialization, "safe_globals")
    if old and wanted and wanted.group(1).startswith("numpy."):
        return needs_newer
    if wanted:
        return (
            f"refused: beside tensors it holds {wanted.group(1)}, and loading Python objects can run any code; "
            "ask for a file of tensors alone (torch.save of a state dict)"
        )
    if old and "Unsupported operand" in error and zipfile.is_zipfile(path):
        return needs_newer
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
        except zipfile.BadZipFile:  # the list of members is at the end
            return "not a complete checkpoint: cut short; download or copy it again"
        for pattern, kind in _ZIP_MEMBERS:
            if any(re.search(pattern, name) for name in members):
                return f"not a checkpoint but {kind}"
        if not any(name.endswith("/data.pkl") for name in members):
            return f"not a checkpoint but a zip archive of other things: {', '.join(members[:4]) or 'nothing'}"
        return "not a complete checkpoint: damaged, or more in it than tensors; ask for a state dict"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "not a checkpoint but a file of safetensors: ask for one of torch.save"
    return "not a complete checkpoint: cut short, or not a file of torch's"
