"""Verification shares reading with growth, and no rule: all that it imports from the rest of the package is listed."""

from __future__ import annotations

import ast

from tests.helpers.paths import PACKAGE

SHARED = {
    # formats: what lies where, and how it is read
    "ckptgrow.checkpoints.checkpoint": {"Checkpoint"},
    "ckptgrow.checkpoints.course": {"Schedule"},  # the function whose fields a state keeps
    "ckptgrow.checkpoints.directory": {"CONFIG", "TRAINER_STATE", "Files"},
    "ckptgrow.checkpoints.fingerprint": {"Fingerprint"},
    "ckptgrow.checkpoints.formats": {"read_checkpoint"},
    "ckptgrow.checkpoints.huggingface": {"SAFETENSORS"},
    "ckptgrow.checkpoints.lightning": {"GROWTH_KEY"},
    "ckptgrow.checkpoints.opaque": {"Opaque"},
    "ckptgrow.checkpoints.optimizer": {"OptimizerState", "ParameterGroup"},
    "ckptgrow.checkpoints.tensors": {"Held", "LazyTensor", "chunks", "whole"},
    "ckptgrow.checkpoints.texts": {"LARGEST_LOG", "read_json"},
    "ckptgrow.checkpoints.tree": {"path_text"},
    # families: names, layouts, sizes, transformers' own models
    "ckptgrow.families.architecture": {"config_errors"},
    "ckptgrow.families.claim": {"Claimed"},
    "ckptgrow.families.family": {"Family"},
    "ckptgrow.families.model": {"load_model"},
    "ckptgrow.families.sizes": {"num_layers", "sizes_of"},
    "ckptgrow.families.state": {"TrainingState", "open_state", "understood"},
    # spaces: which coordinate copies which; no write, no read, no gather, no draw
    "ckptgrow.spaces.growth": {"Growth", "IntVector", "copies", "identity", "padded", "product"},
    "ckptgrow.spaces.layout": {"Axis", "Layout", "Role"},
    "ckptgrow.spaces.layers": {"Layer", "LayerKind"},
    "ckptgrow.spaces.selection": {"selected"},
    "ckptgrow.errors": {"DataError", "OptimizerError", "RequestError", "listing"},
}


def test_verification_imports_exactly_this_from_the_rest_of_the_package() -> None:
    found: dict[str, set[str]] = {}
    for path in (PACKAGE / "verification").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("ckptgrow."):
                if not str(node.module).startswith("ckptgrow.verification."):
                    found.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("ckptgrow") for alias in node.names), path
    assert found == SHARED
